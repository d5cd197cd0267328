"""Card, who it fails and why it may be right for the wrong reason: subgroups and shortcuts."""

from collections.abc import Iterator
from typing import Any

from cxr_mm.evaluation.evidence import Evidence
from cxr_mm.evaluation.flags import METRIC_NAMES
from cxr_mm.evaluation.markdown import NONE, p_value, plain, table, with_interval
from cxr_mm.evaluation.subgroups import CROSSED, METRICS
from cxr_mm.evaluation.subsets import AVAILABLE

FLAGGED, HELD = "△", "▲"
"""Marks of a gap whose interval excludes equality: before, and also after correction."""


def subgroup_section(evidence: Evidence) -> str:
    """Figures of every group, and the gaps between groups."""
    found = evidence.subgroups
    smallest = found["smallest"]
    parts = [
        "## Subgroups",
        f"`{AVAILABLE}`, at the operating point. FNR: share of those with the finding whom the"
        " model misses; FPR: share of those without it whom it calls positive. Groups of fewer"
        f" than {smallest['studies']} studies, or of fewer than {smallest['class']} patients with"
        " (for FPR: without) the finding, are listed as too few.",
        _absent(evidence),
    ]
    for finding in evidence.task.finding_names:
        divisions = found["findings"][finding]
        if not divisions:
            continue
        if len(evidence.task.findings) > 1:
            parts.append(f"### {plain(evidence.title(finding))}")
        parts += [_groups(evidence, divisions), _gaps(evidence, divisions)]
    return "\n\n".join(part for part in parts if part)


def _absent(evidence: Evidence) -> str:
    titles = evidence.subgroups["absent"]
    if not titles:
        return ""
    reasons = "; ".join(f"{plain(name)} ({plain(why)})" for name, why in titles.items())
    return f"Not measured, because the data does not tell: {reasons}."


def _groups(evidence: Evidence, divisions: dict[str, Any]) -> str:
    heads = ["group", "studies", "patients", "present", "AUC", "FNR", "FPR"]
    rows = []
    for by, told in divisions.items():
        if CROSSED in by:
            continue
        known = evidence.subgroups["characteristics"][by]
        for name, group in told["groups"].items():
            label = f"{plain(known['title'])}: {plain(name)}"
            figures = [_given(group[metric]) for metric in ("auc", "fnr", "fpr")]
            rows.append((label, group["n"], group["patients"], group["positives"], *figures))
        if known["unknown"]:
            dashes = [NONE] * 5
            rows.append((f"{plain(known['title'])}: not known", known["unknown"], *dashes))
    return table(heads, rows)


def _given(figure: dict[str, Any]) -> str:
    return "too few" if figure["value"] is None else with_interval(figure)


def _gaps(evidence: Evidence, divisions: dict[str, Any]) -> str:
    rows = list(_gap_rows(divisions))
    if not rows:
        return "No two groups are large enough to be compared."
    tests = evidence.subgroups["tests"]
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
    for by, told in divisions.items():
        for metric in METRICS:
            gap = told["gaps"][metric]
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


def shortcut_section(evidence: Evidence) -> str:
    """What the embedding tells of the patient, and what tells the finding without disease."""
    parts = [
        "## Shortcuts",
        "A model may be right for the wrong reason. All figures are AUC by logistic regression"
        " across folds of patients; 0.5 is chance.",
        _embedding(evidence.shortcuts["embedding"]),
        "Read off view, site or image statistics alone, beside the model on the same studies. A"
        " film's statistics also change with disease itself, so that a high figure is a question,"
        " not a proof.",
        _alone(evidence),
        _within(evidence),
    ]
    return "\n\n".join(part for part in parts if part)


def _embedding(told: dict[str, Any]) -> str:
    rows = [
        (
            f"{plain(trait['title'])}: {plain(level)} against the rest",
            f"{found['n']} of {found['of']}",
            _given(found["auc"]),
        )
        for trait in told["traits"].values()
        for level, found in trait["levels"].items()
    ]
    if not rows:
        return (
            f"Nothing to read off the image embedding: {told.get('reason', 'no trait is known')}."
        )
    return table(["read off the image embedding", "studies", "AUC"], rows)


def _alone(evidence: Evidence) -> str:
    rows = []
    for finding, inputs in evidence.shortcuts["alone"].items():
        for name, told in inputs.items():
            label = f"{plain(evidence.title(finding))} from {name} alone"
            if told["auc"]["value"] is None:
                rows.append((label, NONE, "too few", NONE, NONE))
                continue
            strongest = told.get("strongest")
            if strongest:
                label += f" (of its statistics, {strongest['name']}: {strongest['auc']:.3f})"
            rows.append(
                (
                    label,
                    str(told["n"]),
                    with_interval(told["auc"]),
                    with_interval(told["model_auc"]),
                    with_interval(told["model_minus_this"], "+.3f"),
                )
            )
    heads = ["predicted", "studies", "AUC", "the model", "the model is better by"]
    return table(heads, rows) if rows else "Neither view, site nor image statistics are known."


def _within(evidence: Evidence) -> str:
    rows = []
    for finding, told in evidence.shortcuts["within_view"].items():
        if "adjusted" in told:
            rows.append(
                (
                    plain(evidence.title(finding)),
                    str(told["n"]),
                    with_interval(told["pooled"]),
                    with_interval(told["adjusted"]),
                    with_interval(told["pooled_minus_adjusted"], "+.3f"),
                )
            )
    if not rows:
        return ""
    heads = ["the model's AUC", "studies", "any two films", "two films of one view", "difference"]
    return table(heads, rows)
