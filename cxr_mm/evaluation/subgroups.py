"""Subgroups: error rates and AUC by age band, sex, view, site and every two of them together.

Rates are counted by fairlearn's MetricFrame (Weerts et al., JMLR 2023; 24:257); intervals are over
patients. Gaps between groups are tested, and corrected for being several.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Any, Self

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame, count, false_negative_rate, false_positive_rate
from numpy.typing import NDArray

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE, LEVEL, plural
from cxr_mm.evaluation.delong import Influence, auc_estimate, separated
from cxr_mm.evaluation.limits import rate_limits, worth
from cxr_mm.evaluation.metrics import Floats, Scored, counted
from cxr_mm.evaluation.resampling import (
    Estimate,
    Weights,
    holm,
    multiplicities,
    rounded,
)
from cxr_mm.evaluation.subsets import scored_of, subset_rows
from cxr_mm.evaluation.traits import SMALLEST_CLASS, SMALLEST_GROUP, Traits

SIMULATED = 10_000
"""Draws from the joint normal distribution behind each p value and limit."""
JITTER = 1e-12
Codes = NDArray[np.intp]
"""Number of each study's patient, in 0 to K - 1."""


@dataclass(frozen=True)
class Measured:
    """A group's figure, and what its comparison with others needs.

    Args:
        group: name.
        estimate: a rate or AUC.
        compared: the figure that is compared: of a rate nearer to a half, as of an AUC of 0 or 1.
        variance: its sampling variance.
        influence: (K,) what each of all patients adds to the figure, by which groups that share
            patients are correlated.
    """

    group: str
    estimate: Estimate
    compared: float
    variance: float
    influence: Floats

    @classmethod
    def rate(
        cls, group: str, estimate: Estimate, hits: Floats, patients: Codes, count: int
    ) -> Self:
        """A rate, with one study of each outcome added (Agresti and Caffo, Am Stat 2000; 54:280).

        Args:
            group, estimate: as above.
            hits: (N,) 1 or 0.
            patients: (N,) number of each study's patient, below `count`.
            count: K.
        """
        size = worth(hits, np.unique(patients, return_inverse=True)[1])
        compared = (hits.mean() * size + 1) / (size + 2)
        influence = np.bincount(patients, hits - hits.mean(), minlength=count) / len(hits)
        return cls(group, estimate, compared, compared * (1 - compared) / (size + 2), influence)

    @classmethod
    def auc(
        cls, group: str, estimate: Estimate, scored: Scored, patients: Codes, count: int
    ) -> Self:
        """An AUC, with DeLong's variance or, of separated classes, that of half a study more.

        Args:
            group, estimate, patients, count: as of `rate`.
            scored: N studies, of two patients with and two without the finding.
        """
        found = Influence.of(scored.labels, scored.probabilities[None], patients)
        influence = np.zeros(count)
        influence[np.unique(patients)] = (found.positives + found.negatives)[0]
        compared, variance = float(found.auc[0]), float(found.covariance[0, 0])
        if compared in (0.0, 1.0):
            compared, variance = separated(compared, found.with_finding, found.without)
        return cls(group, estimate, compared, variance, influence)


@dataclass(frozen=True)
class Pair:
    """Difference between two groups, with limits that hold for all pairs at once.

    `difference` is that of the figures as reported, the limits lie around that of those compared.
    """

    higher: str
    lower: str
    difference: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        return {
            "higher": self.higher,
            "lower": self.lower,
            "value": rounded(self.difference),
            "ci95": [rounded(self.low), rounded(self.high)],
        }


@dataclass(frozen=True)
class Gap:
    """How far apart the groups are.

    Args:
        largest: the pair that differs most.
        clearest: the pair that differs most for its standard error.
        p: of the hypothesis that all groups are equal.
        excludes_equality: whether the interval of `clearest` does not hold 0.
    """

    largest: Pair
    clearest: Pair
    p: float
    excludes_equality: bool

    def to_json(self) -> dict[str, Any]:
        return {
            **self.largest.to_json(),
            "clearest": self.clearest.to_json(),
            "p": rounded(self.p),
            "excludes_equality": self.excludes_equality,
        }


def gap_between(measured: Sequence[Measured], seed: int) -> Gap | None:
    """Compare all pairs of groups that have an interval; None where these are fewer than two."""
    measured = [m for m in measured if m.estimate.interval]
    if len(measured) < 2:
        return None
    values = np.array([m.estimate.value for m in measured])
    covariance = _covariance(measured)
    pairs = np.array(list(combinations(range(len(values)), 2)))
    contrast = np.zeros((len(pairs), len(values)))
    contrast[np.arange(len(pairs)), pairs[:, 0]] = 1
    contrast[np.arange(len(pairs)), pairs[:, 1]] = -1
    error = np.sqrt(np.einsum("pi,ij,pj->p", contrast, covariance, contrast))
    difference = contrast @ values
    compared = contrast @ np.array([m.compared for m in measured])
    largest_of = _largest_of_all(contrast, covariance, error, seed)
    limit = float(np.quantile(largest_of, LEVEL))

    def pair(at: int) -> Pair:
        first, second = (measured[i].group for i in pairs[at])
        sign = 1.0 if difference[at] >= 0 else -1.0
        if sign < 0:
            first, second = second, first
        middle, half = sign * float(compared[at]), limit * float(error[at])
        low, high = max(-1.0, middle - half), min(1.0, middle + half)
        return Pair(first, second, float(sign * difference[at]), low, high)

    ratio = np.abs(compared) / error
    clearest = int(ratio.argmax())
    p = (1 + (largest_of >= ratio[clearest]).sum()) / (1 + SIMULATED)
    return Gap(
        largest=pair(int(np.abs(difference).argmax())),
        clearest=pair(clearest),
        p=float(p),
        excludes_equality=bool(ratio[clearest] > limit),
    )


def _covariance(measured: Sequence[Measured]) -> Floats:
    """Covariance (M, M) of groups: their own variances, correlated by the patients they share."""
    influence = np.stack([m.influence for m in measured])
    length = np.sqrt((influence**2).sum(axis=1, keepdims=True))
    along = np.divide(influence, length, out=np.zeros_like(influence), where=length > 0)
    correlation = along @ along.T
    correlation[np.diag_indices_from(correlation)] = 1.0
    error = np.sqrt([m.variance for m in measured])
    covariance: Floats = correlation * np.outer(error, error)
    return covariance


def _largest_of_all(contrast: Floats, covariance: Floats, error: Floats, seed: int) -> Floats:
    """Largest studentised difference (S,) where all groups are equal."""
    size = len(covariance)
    root = np.linalg.cholesky(covariance + JITTER * np.trace(covariance) * np.eye(size))
    normal = np.random.default_rng(seed).standard_normal((SIMULATED, size))
    largest: Floats = np.abs(normal @ root.T @ contrast.T / error).max(axis=1)
    return largest


METRICS = ("fnr", "fpr", "auc")
CLASSES = {"fnr": "patients with it", "fpr": "patients without it"}
"""Of whom there must not be too few for a rate; AUC needs both."""
RATES = {
    "fnr": partial(false_negative_rate, pos_label=1),
    "fpr": partial(false_positive_rate, pos_label=1),
    "n": count,
}
CROSSED = " × "
Names = NDArray[np.object_]


@dataclass(frozen=True)
class Division:
    """One way of dividing the studies: by a characteristic, or by two at once.

    Args:
        by: name, as `age` or `age × sex`.
        groups: names of the groups, in the order of reports.
        names: (N,) group of each study, None where not known.
        crossed: whether it is by two.
    """

    by: str
    groups: Sequence[str]
    names: Names
    crossed: bool


@dataclass(frozen=True)
class Group:
    """Sizes and figures of one group, for one finding."""

    name: str
    sizes: dict[str, int]
    measured: dict[str, Measured]
    few: dict[str, str]
    """Figure that is not given → why."""

    def to_json(self) -> dict[str, Any]:
        report: dict[str, Any] = dict(self.sizes)
        if self.few:
            report["few"] = self.few["auc"]
        for metric in METRICS:
            given = self.measured.get(metric)
            none = {"value": None, "ci95": None, "reason": self.few.get(metric, "not defined")}
            report[metric] = given.estimate.to_json() if given else none
        return report


@dataclass(frozen=True)
class TestedGap:
    """A gap, where it was measured (`finding`, `by`, `crossed`, `metric`), and its report."""

    where: dict[str, Any]
    gap: Gap
    report: dict[str, Any]


NOT_COMPARED = {"value": None, "reason": "fewer than two groups are large enough"}


def measure_subgroups(
    task: Task, table: pd.DataFrame, traits: Traits, params: EvaluateParams
) -> dict[str, Any]:
    """Everything that subgroups.json holds.

    Args:
        task: the question.
        table: held-out predictions; each study is taken with all it has (`available`).
        traits: of these studies.
        params: resamples and seed.
    """
    rows = subset_rows(table, AVAILABLE)
    weights = multiplicities(rows["group"], params.bootstrap, params.seed)
    divisions = list(divide(traits, rows))
    findings: dict[str, Any] = {name: {} for name in task.finding_names}
    gaps: list[TestedGap] = []
    for finding, division in product(task.finding_names, divisions):
        groups = measure_groups(rows, finding, division, weights)
        tested = _tested_gaps(finding, division, groups, params.seed)
        compared = {gap.where["metric"]: gap.report for gap in tested}
        findings[finding][division.by] = {
            "groups": {group.name: group.to_json() for group in groups},
            "gaps": {metric: compared.get(metric, NOT_COMPARED) for metric in METRICS},
        }
        gaps += tested
    tests = _correct(gaps)
    return {
        "task": task.name,
        "title": task.title,
        "synthetic": task.synthetic,
        "subset": AVAILABLE,
        "n": len(rows),
        "patients": int(rows["patient_id"].nunique()),
        "smallest": {"studies": SMALLEST_GROUP, "class": SMALLEST_CLASS},
        "characteristics": _described(traits, rows),
        "absent": traits.absent,
        "findings": findings,
        "tests": tests,
        "flags": _flags(gaps),
    }


def divide(traits: Traits, rows: pd.DataFrame) -> Iterator[Division]:
    """By each characteristic, then by each two of them."""
    here = traits.of(rows["study_id"].tolist())
    for name in traits.frame.columns:
        yield Division(name, traits.levels(name), _names(here[name]), crossed=False)
    for first, second in combinations(traits.frame.columns, 2):
        groups = [f"{a}, {b}" for a in traits.levels(first) for b in traits.levels(second)]
        both = here[first].notna() & here[second].notna()
        names = here[first].astype(str) + ", " + here[second].astype(str)
        yield Division(first + CROSSED + second, groups, _names(names.where(both)), crossed=True)


def _names(column: "pd.Series[Any]") -> Names:
    values = column.astype(object)
    return values.where(values.notna(), None).to_numpy(object)


def measure_groups(
    rows: pd.DataFrame, finding: str, division: Division, weights: Weights
) -> list[Group]:
    """Figures of every group that has a labelled study, on the very resamples of `weights`."""
    scored, labelled = scored_of(rows, finding)
    names, weights = division.names[labelled], weights[:, labelled]
    patients = np.unique(rows.loc[labelled, "group"].astype(str), return_inverse=True)[1]
    known = np.array([name is not None for name in names], dtype=bool)
    if not known.any():
        return []
    rates = MetricFrame(
        metrics=RATES,
        y_true=scored.labels[known].astype(int),
        y_pred=scored.positives[known].astype(int),
        sensitive_features=pd.Series(names[known], name=division.by),
    ).by_group
    return [
        _group(name, scored, names == name, rates.loc[name], weights, patients)
        for name in division.groups
        if (names == name).any()
    ]


def _group(
    name: str,
    everyone: Scored,
    here: NDArray[np.bool_],
    rates: "pd.Series[Any]",
    weights: Weights,
    everyones: Codes,
) -> Group:
    scored, patients, count = everyone.where(here), everyones[here], int(everyones.max()) + 1
    yes = scored.labels > 0
    sizes = {
        "n": int(rates["n"]),
        "patients": len(set(patients)),
        "positives": int(yes.sum()),
        "negatives": int((~yes).sum()),
    }
    few = _too_few(sizes["n"], {"fnr": len(set(patients[yes])), "fpr": len(set(patients[~yes]))})
    measured = {}
    draws = counted(scored, weights[:, here])
    wrong = scored.positives != yes
    for metric, opposite, among in (("fnr", "sensitivity", yes), ("fpr", "specificity", ~yes)):
        if metric not in few:
            limits = rate_limits(wrong, among, patients)
            estimate = Estimate(float(rates[metric]), 1 - draws[opposite], limits=limits)
            hits = wrong[among].astype(np.float64)
            measured[metric] = Measured.rate(name, estimate, hits, patients[among], count)
    if "auc" not in few:
        estimate = auc_estimate(scored, weights[:, here], patients)
        measured["auc"] = Measured.auc(name, estimate, scored, patients, count)
    return Group(name, sizes, measured, few)


def _too_few(studies: int, patients: dict[str, int]) -> dict[str, str]:
    """Figure → why it is not given, for those that are not.

    Args:
        studies: in the group.
        patients: with the finding (`fnr`) and without it (`fpr`).
    """
    if studies < SMALLEST_GROUP:
        return dict.fromkeys(METRICS, f"too few: {plural(studies, 'study')}")
    few = {
        metric: f"too few: {patients[metric]} {CLASSES[metric]}"
        for metric in CLASSES
        if patients[metric] < SMALLEST_CLASS
    }
    return {**few, "auc": "; ".join(few.values())} if few else {}


def _tested_gaps(
    finding: str, division: Division, groups: list[Group], seed: int
) -> list[TestedGap]:
    """One gap for each metric that two groups or more are large enough for."""
    gaps = []
    for metric in METRICS:
        gap = gap_between([g.measured[metric] for g in groups if metric in g.measured], seed)
        if gap is not None:
            where = {"finding": finding, "by": division.by, "crossed": division.crossed}
            gaps.append(TestedGap({**where, "metric": metric}, gap, gap.to_json()))
    return gaps


def _correct(gaps: list[TestedGap]) -> dict[str, int]:
    """Add to each gap its p value corrected within its family; how many tests each family has."""
    sizes = {}
    for family, crossed in (("characteristics", False), ("intersections", True)):
        tested = [each for each in gaps if each.where["crossed"] == crossed]
        for each, p in zip(tested, holm([t.gap.p for t in tested]), strict=True):
            each.report["p_holm"] = rounded(p)
        sizes[family] = len(tested)
    return sizes


def _flags(gaps: list[TestedGap]) -> list[dict[str, Any]]:
    """Gaps whose interval excludes equality, surest first."""
    flags = [
        {
            **each.where,
            **each.report["clearest"],
            "p": each.report["p"],
            "p_holm": each.report["p_holm"],
            "survives_correction": each.report["p_holm"] < 1 - LEVEL,
        }
        for each in gaps
        if each.gap.excludes_equality
    ]
    return sorted(flags, key=lambda flag: (flag["crossed"], flag["p_holm"], flag["p"]))


def _described(traits: Traits, rows: pd.DataFrame) -> dict[str, Any]:
    here = traits.of(rows["study_id"].tolist())
    return {
        name: {
            "title": traits.titles[name],
            "levels": traits.levels(name),
            "unknown": int(here[name].isna().sum()),
        }
        for name in here.columns
    }
