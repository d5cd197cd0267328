"""Flags: figures that need a reader's attention, each raised by a rule on its interval or count.

Rules test whether an interval excludes a value; no threshold is chosen by hand.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE, FEWEST_PATIENTS, plural
from cxr_mm.data.sources.losses import describe_columns, describe_reasons
from cxr_mm.evaluation.report.text import LINES, miscalibration, p_value, with_interval
from cxr_mm.evaluation.traits import OF_MANIFEST
from cxr_mm.models.input_gate import JSON_FILE as GATE_FILE
from cxr_mm.models.input_gate import InputGateSpec
from cxr_mm.models.registry import BundleIndex

Figures = dict[str, Any]


@dataclass(frozen=True)
class EvaluationResults:
    """Figures and facts of one task.

    Args:
        task: the question, with the split that was used.
        index: of the bundle that was evaluated.
        metrics, subgroups, shortcuts, comparisons: what `evaluate` leaves under these names.
        ingest: report of what was left out of the source.
        audit: what the parts of the split share.
        params: of the stage evaluate.
        digests: file → sha256, of what the figures were measured on.
        faithfulness: what `explain` left of this bundle; empty where it has not run.
        uninformative: clinical feature → why no model can learn from it.
        gate: limits of the bundle's input gate; None where it has none.
        gate_elsewhere: content of input_gate.json, what it rejects of other sources; empty where
            that has not been measured on this bundle.
    """

    task: Task
    index: BundleIndex
    metrics: Figures
    subgroups: Figures
    shortcuts: Figures
    comparisons: Figures
    ingest: Figures
    audit: Figures
    params: EvaluateParams
    digests: dict[str, str]
    faithfulness: Figures = field(default_factory=dict)
    uninformative: dict[str, str] = field(default_factory=dict)
    gate: InputGateSpec | None = None
    gate_elsewhere: dict[str, Any] = field(default_factory=dict)

    def title(self, finding: str) -> str:
        """A finding as a clinician would write it."""
        return next(f.title for f in self.task.findings if f.name == finding)

    def figures(self, subset: str) -> Figures:
        """Figures of each finding in one subset of modalities, empty where it was not measured."""
        found: Figures = self.metrics["subsets"].get(subset, {}).get("findings", {})
        return found


METRIC_NAMES = {"fnr": "false negative rate", "fpr": "false positive rate", "auc": "AUC"}
CALIBRATION = ("calibration_intercept", "calibration_slope")


@dataclass(frozen=True)
class Flag:
    """A figure that needs attention.

    Args:
        kind: subgroup, shortcut, calibration, coverage, fusion, leakage, data, size or input.
        text: one sentence without a full stop, with the figures it rests on.
    """

    kind: str
    text: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def find_flags(results: EvaluationResults) -> list[Flag]:
    """All flags, those of subgroups and shortcuts first."""
    return [
        *_subgroups(results),
        *_shortcuts(results),
        *_within_levels(results),
        *_calibration(results),
        *_coverage(results),
        *_fusion(results),
        *_leakage(results.audit),
        *_losses(results.ingest),
        *_sizes(results),
        *_inputs(results),
    ]


def _subgroups(results: EvaluationResults) -> Iterator[Flag]:
    for flag in results.subgroups["flags"]:
        tests = results.subgroups["tests"][
            "intersections" if flag["crossed"] else "characteristics"
        ]
        survives = "also" if flag["survives_correction"] else "no longer"
        yield Flag(
            "subgroup",
            f"{results.title(flag['finding'])}, by {flag['by']}: {METRIC_NAMES[flag['metric']]}"
            f" higher for {flag['higher']} than for {flag['lower']} by {with_interval(flag)},"
            f" p {p_value(flag['p'])}; {survives} after correction for {tests} tests,"
            f" p {p_value(flag['p_holm'])}",
        )


def shortcuts_found(results: EvaluationResults) -> Iterator[tuple[str, str, Figures, str]]:
    """Finding, input that alone reaches much of the model's AUC, its figures, and how much."""
    for finding, found in results.shortcuts["alone"].items():
        raised: set[str] = set()
        for name, message in found.items():
            why = _reaches(message, results.params.shortcut_share)
            # Together is no news where one alone is enough.
            if why and not raised & set(name.split(" + ")):
                raised.add(name)
                yield finding, name, message, why


def _shortcuts(results: EvaluationResults) -> Iterator[Flag]:
    for finding, name, message, why in shortcuts_found(results):
        among = message.get("within", {}).get("adjusted")
        alike = f"; among studies alike in it the model's AUC is {with_interval(among)}"
        yield Flag(
            "shortcut",
            f"{results.title(finding)}: {name} alone reaches AUC"
            f" {with_interval(message['auc'])}, {why}{alike if among else ''}",
        )


def _reaches(message: Figures, limit: float) -> str:
    """How much of the model's AUC an input alone reaches, in words; empty where it is too little.

    It is too little below `limit`, a share of the model's AUC above 0.5, unless the model is not
    shown to be better than the input.
    """
    more = message.get("model_minus_this", {})
    if more.get("ci95") and more["ci95"][0] <= 0:
        return f"and the model is not shown to tell more (difference {with_interval(more, '+.3f')})"
    if message["auc"]["value"] is None:
        return ""
    alone, model = message["auc"]["value"] - 0.5, message["model_auc"]["value"] - 0.5
    if model <= 0 or alone < limit * model:
        return ""
    return f"{alone / model:.0%} of what the model's {model + 0.5:.3f} is above chance"


def _within_levels(results: EvaluationResults) -> Iterator[Flag]:
    for finding, found in results.shortcuts["alone"].items():
        for name, message in found.items():
            within = message.get("within", {}) if name in OF_MANIFEST else {}
            lost = within.get("pooled_minus_adjusted", {})
            if lost.get("ci95") and lost["ci95"][0] > 0:
                yield Flag(
                    "shortcut",
                    f"{results.title(finding)}: part of the AUC comes from comparing images of"
                    f" different {name}s; within a {name} it is"
                    f" {with_interval(within['adjusted'])} instead of"
                    f" {with_interval(within['pooled'])}",
                )


def _calibration(results: EvaluationResults) -> Iterator[Flag]:
    for finding, figures in results.figures(AVAILABLE).items():
        for metric in CALIBRATION:
            name, _, ideal = LINES[metric]
            if figures[metric]["ci95"] and (wrong := miscalibration(metric, figures[metric])):
                yield Flag(
                    "calibration",
                    f"{results.title(finding)}: {name} {with_interval(figures[metric], '.2f')}"
                    f" excludes {ideal:.0f}: {wrong}",
                )


def _coverage(results: EvaluationResults) -> Iterator[Flag]:
    for title, message in uncertainties(results, AVAILABLE):
        for among, coverage in _coverage_by_class(results, message):
            limits = coverage["ci95"]
            if limits and limits[1] < message["target"]:
                yield Flag(
                    "coverage",
                    f"{title}: the true answer was left open in {with_interval(coverage)} of"
                    f" studies {among}, below the {message['target']:.0%} asked for",
                )


def _coverage_by_class(
    results: EvaluationResults, message: Figures
) -> Iterator[tuple[str, Figures]]:
    """Coverage of each class, which is what the conformal bounds promise, with its name."""
    if "coverage_by_class" in message:
        for name, coverage in message["coverage_by_class"].items():
            yield f"of {results.title(name)}", coverage
    else:
        yield "with the finding", message["coverage_present"]
        yield "without the finding", message["coverage_absent"]


def uncertainties(results: EvaluationResults, subset: str) -> Iterator[tuple[str, Figures]]:
    """Figures of prediction sets by title: of each finding, or of all classes together."""
    whole = results.metrics["subsets"].get(subset, {}).get("uncertainty")
    if whole:
        yield results.task.title, whole
    for finding, figures in results.figures(subset).items():
        if "uncertainty" in figures:
            yield results.title(finding), figures["uncertainty"]


def _fusion(results: EvaluationResults) -> Iterator[Flag]:
    gain = results.metrics.get("fusion_gain", {})
    for finding, message in gain.get("findings", {}).items():
        limits = message["difference"]["ci95"]
        if limits and limits[0] <= 0:
            yield Flag(
                "fusion",
                f"{results.title(finding)}: {gain['fused']} is not shown to be better than"
                f" {message['best_single']} alone"
                f" (AUC {with_interval(message['difference'], '+.3f')},"
                f" {plural(gain['studies'], 'study')})",
            )


def _leakage(audit: dict[str, Any]) -> Iterator[Flag]:
    near, exact = audit["near_duplicates"], audit["exact_duplicates"]
    shared = {
        "patient groups": audit["shared_groups"],
        "patients": audit["shared_patients"],
        "identical image files": exact["files_across_parts"],
        "pairs of the same image": near["same_image_across_parts"],
    }
    for what, count in shared.items():
        if count:
            yield Flag("leakage", f"{count} {what} are in more than one part of the split")


def _losses(ingest: Figures) -> Iterator[Flag]:
    total, dropped = ingest["studies_in_source"], ingest["dropped"]
    without, contradicting = ingest["kept_without_image"], ingest["contradicting_labels"]
    if dropped["count"]:
        reasons = "; ".join(describe_reasons(dropped))
        yield Flag("data", f"{dropped['count']:,} of {plural(total, 'study')} left out: {reasons}")
    if without["count"]:
        reasons = "; ".join(describe_reasons(without))
        yield Flag("data", f"{plural(without['count'], 'study')} used without image: {reasons}")
    for line in describe_columns(ingest["values_cleared"]):
        yield Flag("data", f"cleared were {line}")
    if contradicting["count"]:
        yield Flag("data", f"{plural(contradicting['count'], 'image')} with contradicting labels")
    for notice in ingest["notices"]:
        yield Flag("data", notice)


def _sizes(results: EvaluationResults) -> Iterator[Flag]:
    for finding, figures in results.figures(AVAILABLE).items():
        if "caution" in figures:
            yield Flag("size", f"{results.title(finding)}: {figures['caution']}")
    if (patients := results.metrics["n_patients"]) < FEWEST_PATIENTS:
        yield Flag(
            "size",
            f"{plural(patients, 'held-out patient')}; with fewer than {FEWEST_PATIENTS} no figure"
            " has an interval, and none is judged",
        )


def _inputs(results: EvaluationResults) -> Iterator[Flag]:
    titles = {feature.name: feature.title for feature in results.task.clinical}
    for name, why in results.uninformative.items():
        yield Flag("input", f"{titles[name]}: {why} in all studies, so no model can learn from it")
    if results.task.has_image and GATE_FILE not in results.index.parts:
        yield Flag(
            "input",
            "the bundle has no input gate (too few images, or fuse.gate_images is 0): it warns of"
            " no image that is unlike those it was trained on",
        )
