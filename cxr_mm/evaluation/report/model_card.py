"""Model card in Markdown, written from the evaluation results (Mitchell et al., FAT* 2019).

Every statement about performance comes from a file of the stage.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from cxr_mm import __version__
from cxr_mm.core.config import Params
from cxr_mm.core.prediction import NOTICE
from cxr_mm.core.task import ClinicalFeature
from cxr_mm.core.types import Modality
from cxr_mm.evaluation.flags import METRIC_NAMES, EvaluationResults, Flag
from cxr_mm.evaluation.report.card_figures import (
    calibration_section,
    operating_section,
    performance_section,
)
from cxr_mm.evaluation.report.text import (
    NONE,
    bullets,
    headline,
    p_value,
    plain,
    table,
    with_interval,
)
from cxr_mm.evaluation.subgroups import CROSSED, METRICS
from cxr_mm.evaluation.subsets import AVAILABLE

PROTOCOLS = {
    "patient": "at random by patient group, into train, validation and test",
    "official": "as the source does into train and test, validation carved out of train by patient"
    " group",
    "folds": "for cross-validation by patient group: every study is test once",
}
MODALITY_TITLES = {"image": "radiograph", "tabular": "clinical features", "note": "clinical note"}


def data_section(results: EvaluationResults) -> str:
    """Source, counts, what was dropped, split and leakage audit."""
    task = results.task
    homepage = f" ({task.source.homepage})" if task.source.homepage else ""
    parts = [
        "## Data",
        f"Source: {task.source.kind}{homepage}. Licence: {plain(task.licence)}.",
        f"Cite: {plain(task.citation)}",
        _counts(results),
        _dropped(results.ingest),
        "### Split and leakage",
        f"Divided {PROTOCOLS[task.split.protocol]}.",
        _parts(results),
        _audit(results.audit),
    ]
    return "\n\n".join(part for part in parts if part)


def _counts(results: EvaluationResults) -> str:
    ingest = results.ingest
    rows: list[tuple[str, object]] = [
        ("studies in the source", ingest["studies_in_source"]),
        ("studies used", ingest["studies"]),
        ("patients", ingest["patients"]),
    ]
    rows += [
        (f"studies with {MODALITY_TITLES[m]}", ingest["modalities"][m])
        for m in results.task.modalities
    ]
    for name, found in ingest["findings"].items():
        title = plain(results.title(name))
        rows.append((f"{title}: present", found["positive"]))
        rows.append((f"{title}: absent", found["negative"]))
        if found["missing"]:
            rows.append((f"{title}: not labelled", found["missing"]))
    return table(["", "number"], rows)


def _dropped(ingest: dict[str, Any]) -> str:
    dropped = ingest["dropped"]
    if not dropped["count"]:
        return "No study of the source was left out."
    reasons = sorted(dropped["reasons"].items(), key=lambda item: -item[1]["count"])
    heads = [f"{dropped['count']} studies left out, because", "number"]
    return table(heads, [(plain(reason), found["count"]) for reason, found in reasons])


def _parts(results: EvaluationResults) -> str:
    names = results.task.finding_names
    heads = [
        "part",
        "studies",
        "patients",
        *(f"{plain(results.title(n))}, present" for n in names),
    ]
    rows = [
        (part, each["studies"], each["patients"], *(_share(each["findings"][n]) for n in names))
        for part, each in results.audit["parts"].items()
    ]
    return table(heads, rows)


def _share(found: dict[str, Any]) -> str:
    share = found["prevalence"]
    return f"{found['positive']}" if share is None else f"{found['positive']} ({share:.0%})"


def _audit(audit: dict[str, Any]) -> str:
    exact, near = audit["exact_duplicates"], audit["near_duplicates"]
    return bullets(
        [
            f"patient groups in more than one part: {audit['shared_groups']}; patients:"
            f" {audit['shared_patients']}",
            f"groups joined because they share an image: {audit['groups_merged']}",
            f"identical image files: {exact['files']}, of these in more than one part:"
            f" {exact['files_across_parts']}",
            f"pairs of the same image encoded anew: {near['same_image']}, of these across parts:"
            f" {near['same_image_across_parts']}",
        ]
    )


HOW = (
    "Gain: how much faster the logit falls and rises, in logits, as parts are taken out and put "
    "back in the method's order rather than a random one. Noise and seeds: rank correlation with "
    "the explanation of a slightly disturbed study, and of another draw. Shuffled: the same with "
    "that of a model whose weights have lost their places, which should be near 0."
)


def explanation_section(results: EvaluationResults) -> str:
    """A row for each method; empty where the stage `explain` has not measured this bundle."""
    methods: Mapping[str, Any] = results.faithfulness.get("methods", {})
    if not methods:
        return ""
    rows = [_row(figures) for figures in methods.values()]
    heads = ["Method", "Studies", "Gain", "Sparsity", "Noise", "Seeds", "Shuffled", "Faithful"]
    parts = ["## Explanations", HOW, table(heads, rows)]
    return "\n\n".join([*parts, *_areas(results)])


def _row(figures: Mapping[str, Any]) -> list[object]:
    modality: Modality = figures["modality"]
    shuffled = list(figures["randomised"].values())
    if not figures["better_than_chance"]:
        faithful = "no: chance"
    else:
        faithful = "yes" if figures["depends_on_weights"] else "no: not of the weights"
    return [
        f"{plain(figures['title'])} ({MODALITY_TITLES[modality]})",
        figures["n"],
        *(_figure(figures.get(name)) for name in ("gain", "sparsity", "noise", "seeds")),
        _figure(shuffled[-1] if shuffled else None),
        faithful,
    ]


def _areas(results: EvaluationResults) -> list[str]:
    """How much of each image method lies in the true areas, where the source knows them."""
    titles = {name: m["title"] for name, m in results.faithfulness["methods"].items()}
    rows: list[list[object]] = [
        [
            f"{plain(titles.get(name, name))}, {plain(results.title(finding))}",
            figures["n"],
            *(_figure(figures[area]) for area in ("energy", "pointing", "iou", "chance_energy")),
        ]
        for finding, methods in (results.faithfulness.get("localisation") or {}).items()
        for name, figures in methods.items()
    ]
    if not rows:
        return []
    heads = ["In the true area", "Studies", "Energy", "Highest point", "Overlap", "By chance"]
    return [table(heads, rows)]


def _figure(figure: Mapping[str, float] | None) -> str:
    if not figure:
        return NONE
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


FLAGGED, HELD = "△", "▲"
"""Marks of a gap whose interval excludes equality: before, and also after correction."""


def subgroup_section(results: EvaluationResults) -> str:
    """Figures of every group, and the gaps between groups."""
    found = results.subgroups
    smallest = found["smallest"]
    parts = [
        "## Subgroups",
        f"`{AVAILABLE}`, at the operating point. FNR: share of those with the finding whom the"
        " model misses; FPR: share of those without it whom it calls positive. Groups of fewer"
        f" than {smallest['studies']} studies, or of fewer than {smallest['class']} patients with"
        " (for FPR: without) the finding, are listed as too few.",
        _absent(results),
    ]
    for finding in results.task.finding_names:
        divisions = found["findings"][finding]
        if not divisions:
            continue
        if len(results.task.findings) > 1:
            parts.append(f"### {plain(results.title(finding))}")
        parts += [_groups(results, divisions), _gaps(results, divisions)]
    return "\n\n".join(part for part in parts if part)


def _absent(results: EvaluationResults) -> str:
    titles = results.subgroups["absent"]
    if not titles:
        return ""
    reasons = "; ".join(f"{plain(name)} ({plain(reason)})" for name, reason in titles.items())
    return f"Not measured, because the data does not tell: {reasons}."


def _groups(results: EvaluationResults, divisions: dict[str, Any]) -> str:
    heads = ["group", "studies", "patients", "present", "AUC", "FNR", "FPR"]
    rows = []
    for by, message in divisions.items():
        if CROSSED in by:
            continue
        known = results.subgroups["characteristics"][by]
        for name, group in message["groups"].items():
            label = f"{plain(known['title'])}: {plain(name)}"
            figures = [_given(group[metric]) for metric in ("auc", "fnr", "fpr")]
            rows.append((label, group["n"], group["patients"], group["positives"], *figures))
        if known["unknown"]:
            dashes = [NONE] * 5
            rows.append((f"{plain(known['title'])}: not known", known["unknown"], *dashes))
    return table(heads, rows)


def _given(figure: dict[str, Any]) -> str:
    return "too few" if figure["value"] is None else with_interval(figure)


def _gaps(results: EvaluationResults, divisions: dict[str, Any]) -> str:
    rows = list(_gap_rows(divisions))
    if not rows:
        return "No two groups are large enough to be compared."
    tests = results.subgroups["tests"]
    heads = ["largest gap", "between", "difference", "p", "p, corrected (Holm)", ""]
    text = (
        "Gaps. The difference has limits that hold for all pairs of groups at once; p is of the"
        " hypothesis that all groups of the row are equal, corrected for"
        f" {tests['characteristics']} tests ({tests['intersections']} more, on their own, for two"
        f" characteristics at once). {FLAGGED}: equality is excluded; {HELD}: also after"
        " correction."
    )
    return f"{text}\n\n{table(heads, rows)}"


def _gap_rows(divisions: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for by, message in divisions.items():
        for metric in METRICS:
            gap = message["gaps"][metric]
            if gap["value"] is None:
                continue
            pair = gap["clearest"] if gap["excludes_equality"] else gap
            mark = ""
            if gap["excludes_equality"]:
                mark = HELD if gap["p_holm"] < 0.05 else FLAGGED
            yield (
                f"{METRIC_NAMES[metric]} by {plain(by)}",
                f"{plain(pair['higher'])} above {plain(pair['lower'])}",
                with_interval(pair),
                p_value(gap["p"]).removeprefix("= "),
                p_value(gap["p_holm"]).removeprefix("= "),
                mark,
            )


def shortcut_section(results: EvaluationResults) -> str:
    """Traits predictable from the embedding, and findings predictable without the image."""
    parts = [
        "## Shortcuts",
        "A model may be right for the wrong reason. All figures are AUC by logistic regression"
        " across folds of patients; 0.5 is chance.",
        _embedding(results.shortcuts["embedding"]),
        "Read off view, site or image statistics alone, beside the model on the same studies. A"
        " image's statistics also change with disease itself, so that a high figure is a question,"
        " not a proof.",
        _alone(results),
        _within(results),
    ]
    return "\n\n".join(part for part in parts if part)


def _embedding(message: dict[str, Any]) -> str:
    rows = [
        (
            f"{plain(trait['title'])}: {plain(level)} against the rest",
            f"{found['n']} of {found['of']}",
            _given(found["auc"]),
        )
        for trait in message["traits"].values()
        for level, found in trait["levels"].items()
    ]
    if not rows:
        reason = message.get("reason", "no trait is known")
        return f"Nothing to read off the image embedding: {reason}."
    return table(["read off the image embedding", "studies", "AUC"], rows)


def _alone(results: EvaluationResults) -> str:
    rows: list[tuple[str, ...]] = []
    for finding, inputs in results.shortcuts["alone"].items():
        for name, message in inputs.items():
            label = f"{plain(results.title(finding))} from {name} alone"
            if message["auc"]["value"] is None:
                rows.append((label, NONE, "too few", NONE, NONE))
                continue
            strongest = message.get("strongest")
            if strongest:
                label += f" (of its statistics, {strongest['name']}: {strongest['auc']:.3f})"
            compared = (with_interval(message[name]) for name in ("auc", "model_auc"))
            difference = with_interval(message["model_minus_this"], "+.3f")
            rows.append((label, str(message["n"]), *compared, difference))
    heads = ["predicted", "studies", "AUC", "the model", "the model is better by"]
    return table(heads, rows) if rows else "Neither view, site nor image statistics are known."


def _within(results: EvaluationResults) -> str:
    rows = [
        (
            plain(results.title(finding)),
            str(message["n"]),
            with_interval(message["pooled"]),
            with_interval(message["adjusted"]),
            with_interval(message["pooled_minus_adjusted"], "+.3f"),
        )
        for finding, message in results.shortcuts["within_view"].items()
        if "adjusted" in message
    ]
    if not rows:
        return ""
    heads = ["the model's AUC", "studies", "any two images", "two images of one view", "difference"]
    return table(heads, rows)


SYNTHETIC = (
    "> # SYNTHETIC DATA\n>\n> Images, clinical features and notes are made up by a program. **No"
    " figure on this page says anything about patients.**"
)
SECTIONS_OF_MODEL = ("ingest", "split", "train_image", "embed", "fuse")


def model_card(results: EvaluationResults, flags: list[Flag]) -> str:
    """Write the whole card as Markdown."""
    sections = [
        f"# Model card: {plain(results.task.title)}",
        SYNTHETIC if results.task.synthetic else "",
        f"> **{NOTICE}**",
        _glance(results),
        _flags(flags),
        _use(results),
        data_section(results),
        performance_section(results),
        operating_section(results),
        calibration_section(results),
        subgroup_section(results),
        shortcut_section(results),
        explanation_section(results),
        _limits(results),
        _reproduce(results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _glance(results: EvaluationResults) -> str:
    task, subset = results.task, results.metrics["subsets"][AVAILABLE]
    figures = headline(subset)
    mean = " (mean over findings)" if len(task.findings) > 1 else ""
    rows = [
        ("Model", plain(results.index.name)),
        ("Answers", ", ".join(plain(f.title) for f in task.findings) + f" ({task.problem})"),
        ("From", _inputs(results)),
        (
            "Held out",
            f"{results.metrics['n_studies']} studies, {results.metrics['n_patients']} patients",
        ),
        (f"AUC{mean}", with_interval(figures["auc"])),
        (f"Sensitivity{mean}", with_interval(figures["sensitivity"])),
        (f"Specificity{mean}", with_interval(figures["specificity"])),
        (f"Calibration error{mean}", with_interval(figures["ece"])),
        ("Bundle digest", f"`{results.index.digest}`"),
    ]
    return table(["", ""], rows).replace("| ---: |", "| --- |")


def _flags(flags: list[Flag]) -> str:
    if not flags:
        return "## Flags\n\nNo rule of the evaluation raised one."
    message = bullets(f"**{flag.kind}**: {plain(flag.text)}." for flag in flags)
    return f"## Flags\n\nRaised by rule, from intervals and counts.\n\n{message}"


def _use(results: EvaluationResults) -> str:
    task = results.task
    findings = ", ".join(plain(f.title) for f in task.findings)
    views = f" in {', '.join(task.views)} view" if task.views and task.has_image else ""
    intended = [
        f"Research on {findings}: calibrated probabilities for patients like those of the"
        " data below, with a person who reads them and the image itself.",
        f"Input: {_inputs(results)}{views}. The probability is calibrated for what is there.",
    ]
    if task.clinical:
        intended.append("Clinical features: " + "; ".join(_feature(f) for f in task.clinical) + ".")
    return "\n\n".join(
        ["## Intended use", bullets(intended), "## Not for", bullets(_not_for(results))]
    )


def _inputs(results: EvaluationResults) -> str:
    titles = [MODALITY_TITLES[m] for m in results.task.modalities]
    return f"any of {', '.join(titles)}" if len(titles) > 1 else titles[0]


def _feature(feature: ClinicalFeature) -> str:
    if feature.type == "category":
        return f"{plain(feature.title)} ({', '.join(plain(c) for c in feature.categories)})"
    limits = f"{feature.minimum:g} to {feature.maximum:g}"
    unit = f" {plain(feature.unit_suffix)}" if feature.unit else ""
    return f"{plain(feature.title)} ({limits}{unit})"


def _not_for(results: EvaluationResults) -> Iterator[str]:
    task = results.task
    yield "Diagnosis, treatment, triage or any decision on a patient without a physician's own"
    if task.views and task.has_image:
        yield f"Views other than {', '.join(task.views)}, and images that are no chest radiograph"
    elif task.has_image:
        yield "Images that are no chest radiograph"
    if task.problem != "multilabel":
        yield "Findings other than those named, which the model has no answer for"
    if unmeasured := _unmeasured(results):
        yield "Groups too small to be measured in full: " + "; ".join(unmeasured)
    yield "Another hospital, before `cxr-mm evaluate-on` has measured it there"


def _unmeasured(results: EvaluationResults) -> list[str]:
    """Groups with a figure missing for some finding; and levels that no held-out study has."""
    found: dict[str, None] = {}
    for divisions in results.subgroups["findings"].values():
        for by, message in divisions.items():
            if CROSSED not in by:
                title = results.subgroups["characteristics"][by]["title"]
                for name, group in message["groups"].items():
                    if "few" in group:
                        found[f"{plain(title)} {plain(name)}"] = None
    return list(found)


def _limits(results: EvaluationResults) -> str:
    own = [
        "All figures are internal: the same source, other patients. No other hospital is in them.",
        "Intervals are over patients and take the model as given; another training would differ.",
    ]
    if results.task.split.protocol == "folds":
        own.append(
            "Figures are of models each fitted without one fold; the bundle is the same recipe"
            " fitted on all studies, and has no held-out study of its own."
        )
    return "\n\n".join(
        ["## Limits", bullets([*(plain(text) for text in results.task.caveats), *own])]
    )


def _reproduce(results: EvaluationResults) -> str:
    name, trained = results.task.name, results.index.trained_on
    digests: list[tuple[str, object]] = [("bundle", f"`{results.index.digest}`")]
    for key in ("manifest_sha256", "pixels_sha256"):
        if trained.get(key):
            digests.append((key.removesuffix("_sha256"), f"`{trained[key]}`"))
    digests += [(file, f"`{digest}`") for file, digest in results.digests.items()]
    commands = f"```sh\ndvc repro evaluate@{name}\ncxr-mm summary {name}\n```"
    return "\n\n".join(
        [
            "## How to reproduce",
            f"cxr_mm {__version__}, with the task among `tasks` in params.yaml:",
            commands,
            table(["sha256 of", ""], digests).replace("| ---: |", "| --- |"),
            _parameters(results),
        ]
    )


def _parameters(results: EvaluationResults) -> str:
    """Of the model as the bundle holds them, and of this evaluation."""
    defaults = Params(tasks=(results.task.name,)).model_dump(mode="json")
    trained: dict[str, Any] = results.index.trained_on.get("params", {})
    used = {section: trained[section] for section in SECTIONS_OF_MODEL if section in trained}
    used["evaluate"] = results.params.model_dump(mode="json")
    changed = {
        section: {
            key: value for key, value in values.items() if defaults[section].get(key) != value
        }
        for section, values in used.items()
    }
    changed = {section: values for section, values in changed.items() if values}
    if not changed:
        return "All parameters are the defaults of cxr_mm/core/config.py."
    text = yaml.safe_dump(changed, allow_unicode=True)
    return (
        f"Parameters that differ from the defaults of cxr_mm/core/config.py:\n\n```yaml\n{text}```"
    )
