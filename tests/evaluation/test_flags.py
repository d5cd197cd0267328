"""Flags: each is raised by its own figure, and by nothing else."""

from copy import deepcopy
from dataclasses import replace

import pytest

from cxr_mm.evaluation.flags import find_flags

F = "effusion"


@pytest.fixture
def results(results_of):
    return results_of()


def changed(results, part, *path, to):
    """The results with one value of one file changed."""
    content = deepcopy(getattr(results, part))
    at = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return replace(results, **{part: content})


def without_flags(results):
    """The results without the flags that the synthetic data happens to raise."""
    found = changed(results, "subgroups", "flags", to=[])
    found = changed(found, "ingest", "dropped", to={"count": 0, "reasons": {}})
    found = changed(found, "metrics", "fusion_gain", to={})
    for metric, ideal in (("calibration_intercept", 0.0), ("calibration_slope", 1.0)):
        figure = {"value": ideal, "ci95": [ideal - 0.1, ideal + 0.1]}
        path = ("subsets", "available", "findings", F, metric)
        found = changed(found, "metrics", *path, to=figure)
    return changed(found, "shortcuts", "alone", to={})


def kinds(results):
    return [flag.kind for flag in find_flags(results)]


def figure(value, low, high):
    return {"value": value, "ci95": [low, high]}


WEAK = {
    "n": 9,
    "auc": figure(0.6, 0.5, 0.7),
    "model_auc": figure(0.9, 0.8, 1.0),
    "model_minus_this": figure(0.3, 0.2, 0.4),
}
WITHIN = {
    "pooled": figure(0.9, 0.8, 1.0),
    "adjusted": figure(0.6, 0.5, 0.7),
    "pooled_minus_adjusted": figure(0.3, 0.2, 0.4),
}
ALONE = {"n": 9, "auc": figure(0.8, 0.7, 0.9), "model_auc": figure(0.9, 0.8, 1.0)}


@pytest.mark.parametrize(
    ("part", "path", "value", "kind", "words"),
    [
        (
            "shortcuts",
            ("alone",),
            {F: {"view": {**ALONE, "model_minus_this": figure(0.1, -0.01, 0.2)}}},
            "shortcut",
            "view alone reaches AUC 0.800 [0.700, 0.900]",
        ),
        (
            "shortcuts",
            ("alone",),
            {F: {"view": {**WEAK, "within": WITHIN}}},
            "shortcut",
            "different views; within a view it is 0.600 [0.500, 0.700] instead of 0.900",
        ),
        (
            "shortcuts",
            ("alone",),
            {
                F: {
                    "image quality": {
                        **ALONE,
                        "model_minus_this": figure(0.1, 0.01, 0.2),
                        "within": WITHIN,
                    }
                }
            },
            "shortcut",
            "among studies alike in it the model's AUC is 0.600 [0.500, 0.700]",
        ),
        (
            "metrics",
            ("subsets", "available", "findings", F, "calibration_slope"),
            figure(0.6, 0.4, 0.8),
            "calibration",
            "slope 0.60 [0.40, 0.80] excludes 1: predictions are too extreme",
        ),
        (
            "metrics",
            ("subsets", "available", "findings", F, "calibration_intercept"),
            figure(-0.6, -0.8, -0.4),
            "calibration",
            "probabilities are too high",
        ),
        (
            "metrics",
            ("subsets", "available", "findings", F, "uncertainty"),
            {
                "coverage": figure(0.9, 0.85, 0.95),
                "coverage_present": figure(0.8, 0.75, 0.85),
                "coverage_absent": figure(0.92, 0.88, 0.96),
                "target": 0.9,
            },
            "coverage",
            "0.800 [0.750, 0.850] of studies with the finding, below the 90% asked for",
        ),
        (
            "metrics",
            ("fusion_gain",),
            {
                "fused": "image+note",
                "studies": 9,
                "findings": {F: {"best_single": "note", "difference": figure(0.0, -0.1, 0.1)}},
            },
            "fusion",
            "image+note is not shown to be better than note alone",
        ),
        (
            "ingest",
            ("dropped",),
            {"count": 7, "reasons": {"no label": {"count": 7, "examples": ["a", "b"]}}},
            "data",
            "studies left out: 7 no label (as a, b)",
        ),
        (
            "ingest",
            ("values_cleared",),
            {
                "clinical.age": {
                    "cleared": 3,
                    "given": 9,
                    "expected": "a number",
                    "reasons": {"no number": {"count": 3, "examples": ["old"]}},
                }
            },
            "data",
            "cleared were 3 of 9 values of clinical.age (3 no number; found 'old'",
        ),
        ("ingest", ("contradicting_labels", "count"), 2, "data", "2 images with contradicting"),
        ("ingest", ("notices",), ["no study has note"], "data", "no study has note"),
        ("audit", ("shared_patients",), 3, "leakage", "3 patients are in more than one part"),
        (
            "metrics",
            ("subsets", "available", "findings", F, "caution"),
            "only 7 studies in the smaller class",
            "size",
            "only 7 studies",
        ),
    ],
)
def test_one_figure_raises_one_flag(part, path, value, kind, words, results):
    calm = without_flags(results)
    assert kinds(calm) == []
    (flag,) = find_flags(changed(calm, part, *path, to=value))
    assert flag.kind == kind
    assert words in flag.text


def test_figures_that_show_what_they_should_raise_nothing(results):
    calm = without_flags(results)
    better = {F: {"view": WEAK}}
    names = ("coverage", "coverage_present", "coverage_absent")
    covered = {**dict.fromkeys(names, figure(0.88, 0.85, 0.91)), "target": 0.9}
    path = ("subsets", "available", "findings", F, "uncertainty")
    assert kinds(changed(calm, "shortcuts", "alone", to=better)) == []
    assert kinds(changed(calm, "metrics", *path, to=covered)) == []
    assert kinds(changed(calm, "audit", "exact_duplicates", "files", to=4)) == []


def test_a_gap_says_whether_it_survives_correction(results):
    gap = {
        "finding": F,
        "by": "view",
        "crossed": False,
        "metric": "fnr",
        "higher": "AP",
        "lower": "PA",
        **figure(0.2, 0.1, 0.3),
        "p": 0.0002,
        "p_holm": 0.0018,
        "survives_correction": True,
    }
    (flag,) = find_flags(changed(without_flags(results), "subgroups", "flags", to=[gap]))
    assert flag.kind == "subgroup"
    assert flag.text.startswith(
        "Effusion, by view: false negative rate higher for AP than for PA by 0.200 [0.100, 0.300]"
    )
    assert "also after correction" in flag.text


def test_few_patients_a_feature_without_a_value_and_a_missing_gate_are_flagged(results):
    few = changed(without_flags(results), "metrics", "n_patients", to=9)
    index = few.index.model_copy(update={"parts": {}})
    texts = [
        f.text for f in find_flags(replace(few, index=index, uninformative={"age": "no value"}))
    ]
    assert [text.split(";")[0].split(" (")[0] for text in texts] == [
        "9 held-out patients",
        "Age: no value in all studies, so no model can learn from it",
        "the bundle has no input gate",
    ]


@pytest.mark.parametrize(
    ("alone", "share", "raised"), [(0.71, 0.5, True), (0.69, 0.5, False), (0.69, 0.4, True)]
)
def test_a_shortcut_is_flagged_from_a_share_of_the_models_auc_above_chance(
    alone, share, raised, results
):
    clean = without_flags(results)
    message = {
        "auc": figure(alone, alone - 0.1, alone + 0.1),
        "model_auc": figure(0.9, 0.85, 0.95),
        "model_minus_this": figure(0.9 - alone, 0.05, 0.3),
    }
    found = changed(clean, "shortcuts", "alone", to={F: {"site": message}})
    found = replace(found, params=found.params.model_copy(update={"shortcut_share": share}))
    flags = [flag.text for flag in find_flags(found) if flag.kind == "shortcut"]
    assert len(flags) == raised
    if raised:
        assert f"{(alone - 0.5) / 0.4:.0%} of what the model's 0.900 is above chance" in flags[0]


def test_coverage_of_all_classes_together_raises_no_flag_and_that_of_one_does(results):
    clean = without_flags(results)
    message = {
        "coverage": figure(0.8, 0.75, 0.85),
        "coverage_by_class": {F: figure(0.9, 0.85, 0.95)},
        "target": 0.9,
    }
    path = ("subsets", "available", "uncertainty")
    assert "coverage" not in kinds(changed(clean, "metrics", *path, to=message))
    message["coverage_by_class"] = {F: figure(0.7, 0.65, 0.75)}
    assert "coverage" in kinds(changed(clean, "metrics", *path, to=message))
