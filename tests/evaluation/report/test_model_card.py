"""The card says what the files say, to the digit, and leaves out what they do not have."""

import re
from copy import deepcopy
from dataclasses import replace

import pytest

from cxr_mm.core.prediction import NOTICE
from cxr_mm.evaluation.flags import Flag, find_flags
from cxr_mm.evaluation.report.model_card import model_card
from cxr_mm.explain.faithfulness.metrics import Localisation
from cxr_mm.models.input_gate import InputGateSpec

SECTIONS = [
    "Flags",
    "Intended use",
    "Not for",
    "Data",
    "Performance",
    "Operating point",
    "Calibration",
    "Input gate",
    "Subgroups",
    "Shortcuts",
    "Explanations",
    "Limits",
    "How to reproduce",
]


def card_of(results):
    return model_card(results, find_flags(results))


def changed(results, part, *path, to):
    """The results with one value of one file changed."""
    content = deepcopy(getattr(results, part))
    at = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return replace(results, **{part: content})


def rows_of(card):
    """First cell of each table row → the others."""
    found = {}
    for line in card.splitlines():
        if line.startswith("| "):
            first, *others = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(first, others)
    return found


AREA_FIGURES = (*Localisation.__dataclass_fields__, "average_precision")
FIGURE = {"value": 0.31, "low": 0.2, "high": 0.4}
METHOD = {
    "title": "Grad-CAM",
    "modality": "image",
    "n": 8,
    "patients": 8,
    **dict.fromkeys(("gain", "sparsity", "noise"), FIGURE),
    "randomised": {"fusion": FIGURE, "all": FIGURE},
    "better_than_chance": True,
    "depends_on_weights": True,
    "faithful": "yes",
}


@pytest.fixture
def results(results_of):
    return results_of(problem="multilabel", kind="synthetic")


def test_every_section_in_order_and_the_notice(results):
    card = card_of(results)
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == SECTIONS
    assert NOTICE in card
    assert results.index.digest in card


def test_synthetic_is_said_before_any_figure_and_only_where_it_is_so(results, results_of):
    card = card_of(results)
    assert card.index("SYNTHETIC DATA") < card.index("| Model |")
    assert "SYNTHETIC" not in card_of(results_of())


def test_figures_are_those_of_the_files(results):
    rows = rows_of(card_of(results))
    subset = results.metrics["subsets"]["image+note"]
    auc = subset["macro"]["auc"]
    low, high = auc["ci95"]
    assert rows["`image+note`"][1] == f"{auc['value']:.3f} [{low:.3f}, {high:.3f}]"
    group = results.subgroups["findings"]["effusion"]["view"]["groups"]["PA"]
    assert rows["View position: PA"][0] == str(group["n"])
    assert rows["View position: PA"][4].startswith(f"{group['fnr']['value']:.3f} [")
    assert rows["view LL"] == ["7"]
    alone = results.shortcuts["alone"]["effusion"]["view"]
    assert rows["Effusion from view alone"][1].startswith(f"{alone['auc']['value']:.3f} [")
    ece = results.figures("note")["consolidation"]["ece"]
    assert f"| Consolidation: `note` | {ece['value']:.3f} [" in card_of(results)


def test_small_groups_are_named_where_the_model_is_not_for_them(results):
    card = card_of(results)
    few = [
        f"{results.subgroups['characteristics'][by]['title']} {name}"
        for by, division in results.subgroups["findings"]["effusion"].items()
        if " × " not in by
        for name, group in division["groups"].items()
        if "few" in group
    ]
    assert few
    (line,) = [x for x in card.splitlines() if x.startswith("- Groups too small")]
    assert all(name in line for name in few)


def test_names_from_the_data_do_not_break_a_table(results):
    site_levels = results.shortcuts["embedding"]["traits"]["site"]["levels"]
    levels = {"Mill | Lane": next(iter(site_levels.values()))}
    edited = changed(results, "shortcuts", "embedding", "traits", "site", "levels", to=levels)
    (line,) = [x for x in card_of(edited).splitlines() if "Mill" in x]
    assert line.startswith(r"| Site: Mill \| Lane against the rest | ")


def test_what_was_not_measured_is_left_out(results):
    assert "uncertain”" not in card_of(results)
    interval = {"value": 0.91, "ci95": [0.88, 0.94]}
    coverage = ("coverage", "coverage_present", "coverage_absent")
    keys = (*coverage, "uncertain", "accuracy_when_certain")
    uncertainty = {**dict.fromkeys(keys, interval), "target": 0.9}
    path = ("subsets", "available", "findings", "effusion", "uncertainty")
    card = card_of(changed(results, "metrics", *path, to=uncertainty))
    assert "true answer in 90% of studies" in card
    assert "| Effusion, `available` | 0.910 [0.880, 0.940] |" in card


def test_parameters_that_differ_are_listed(results):
    card = card_of(results)
    assert "fuse:\n  epochs: 3\n" in card
    assert "bootstrap: 100" in card
    plain = replace(
        results,
        index=results.index.model_copy(update={"trained_on": {}}),
        params=type(results.params)(),
    )
    assert "All parameters are the defaults" in card_of(plain)


def test_flags_are_sentences_of_their_own(results):
    card = model_card(results, [Flag("size", "Effusion: only 3 <b>")])
    assert "- **size**: Effusion: only 3 \\<b>." in card
    assert "No rule of the evaluation raised one." in model_card(results, [])


def test_multiclass_has_no_threshold_and_folds_say_what_the_bundle_is(results_of):
    card = card_of(results_of(problem="multiclass", protocol="folds", modalities=1, folds=3))
    assert "there is no threshold to set" in card
    assert "the bundle is the same recipe fitted on all studies" in " ".join(card.split())
    assert "### Is one better than another?" not in card


def test_explanations_stand_with_their_figures_where_they_were_measured(results):
    areas = dict.fromkeys(AREA_FIGURES, FIGURE)
    finding = results.task.finding_names[0]
    measured = {
        "methods": {
            "grad_cam": METHOD,
            "shap_note": {
                **METHOD,
                "title": "SHAP",
                "modality": "note",
                "randomised": {},
                "faithful": "not measured: fewer than 30 studies",
            },
        },
        "localisation": {finding: {"grad_cam": {"n": 60, **areas, "beats_average": False}}},
    }
    card = card_of(replace(results, faithfulness=measured))
    rows = rows_of(card)
    found = {first: others for first, others in rows.items() if first.startswith(("Grad", "SHAP"))}
    grad, note = (next(v for k, v in found.items() if k.startswith(n)) for n in ("Grad", "SHAP"))
    assert grad == ["8", *["0.31 [0.20, 0.40]"] * 3, "–", "0.31 [0.20, 0.40]", "yes"]
    assert note[-2:] == ["–", "not measured: fewer than 30 studies"]
    assert any("60" in others for first, others in found.items() if "," in first)


def test_the_first_table_says_whose_figures_it_has(results_of):
    said = "Fold models made these figures, not the bundle"
    card = card_of(results_of(protocol="folds", folds=3))
    assert card.index("| Bundle digest |") < card.index(said) < card.index("## Flags")
    assert said not in card_of(results_of())


def test_the_operating_point_is_named_by_what_it_is(results):
    card = card_of(results)
    assert "Predictions use `prevalence`: the share of positives" in card
    assert "youden" not in card.split("## Operating point")[1].split("## Calibration")[0]


def test_a_card_before_the_explanations_says_what_is_to_come_and_how(results):
    text = card_of(replace(results, faithfulness={})).split("## Explanations")[1]
    assert text.split("## Limits")[0].strip() == (
        "Still to come when this card was written, since figures do not wait for explanations:"
        " how faithful each method is. `dvc repro explain@made_up` measures it, as the first"
        " `dvc repro` does of itself; reports/made_up/explain/index.html then shows it for the same"
        " bundle, and `dvc repro --force --single-item evaluate@made_up` writes it into this card."
    )


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        (
            {},
            "Notes are read by all-MiniLM-L6-v2, trained on English: of a note in another language"
            " it knows little more than the words. `embed.note_encoder` names a multilingual one.",
        ),
        (
            {"embed": {"note_encoder": "some/multi*lingual"}},
            r"Notes are read by some/multi\*lingual, in the languages that it was trained on.",
        ),
    ],
)
def test_the_language_of_the_note_encoder_is_said_where_notes_are_read(results, params, sentence):
    index = results.index.model_copy(update={"trained_on": {"params": params}})
    read = replace(results, index=index)
    assert f"- {sentence}\n" in card_of(read)
    without = read.task.model_copy(update={"note": None})
    assert "Notes are read by" not in card_of(replace(read, task=without))


def test_the_card_names_limits_and_rejections_of_the_input_gate(results):
    limits = {"ood_score": 1.25, "distance": 0.5}
    gate = InputGateSpec(
        kinds=("image",),
        refuse=limits,
        warn=limits,
        images=200,
        limits_from=200,
        rejected=4,
        copies=600,
        copies_rejected=6,
    )
    card = model_card(replace(results, gate=gate), [])
    assert "| rejected above | 1.25 | 0.50 |" in card
    assert "rejected of 200 images of this task" in card
    assert "0.020 [0.005, 0.050]" in card
    assert "rejected of 600 copies of them" in card
    assert "0.010 [0.004, 0.022]" in card
    assert "from other sources: not measured on this bundle" in card
    earlier = gate.model_copy(update=dict.fromkeys(("rejected", "copies", "copies_rejected")))
    assert "by gates that have not seen" not in model_card(replace(results, gate=earlier), [])
    assert "## Input gate" not in model_card(replace(results, gate=None), [])


def test_the_card_reads_what_the_gate_rejects_of_other_sources(results):
    limits = {"ood_score": 1.25, "distance": 0.5}
    gate = InputGateSpec(kinds=("image",), refuse=limits, warn=limits, images=9, limits_from=9)
    found = {"value": 0.01, "ci95": [0.002, 0.03]}
    measured = {
        "digest": results.index.digest,
        "command": "make benchmark PART=input-gate",
        "sources": {"chest_xray": {"n": 450, "rejected": found, "flagged": found}},
    }
    card = model_card(replace(results, gate=gate, gate_elsewhere=measured), [])
    assert "rejected of 450 images of another source (chest_xray): 0.010 [0.002, 0.030]" in card
    assert "(`make benchmark PART=input-gate`)" in card
    assert "not measured on this bundle" not in card


def test_a_finding_that_was_too_rare_to_be_learnt_is_counted(results):
    rare = {"positive": 3, "negative": 90, "missing": 0}
    counted = changed(results, "ingest", "findings", "hernia", to=rare)
    assert rows_of(card_of(counted))["hernia: present, too rare to be learnt"] == ["3"]
