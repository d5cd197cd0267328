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
from cxr_mm.core.types import LEVEL
from cxr_mm.evaluation.metrics import Floats, Scored, counted
from cxr_mm.evaluation.resampling import (
    Estimate,
    Weights,
    auc_estimate,
    holm,
    multiplicities,
    rounded,
)
from cxr_mm.evaluation.subsets import AVAILABLE, scored_of, subset_rows
from cxr_mm.evaluation.traits import SMALLEST_CLASS, SMALLEST_GROUP, Traits

SIMULATED = 10_000
"""Draws from the joint normal distribution behind each p value and limit."""
JITTER = 1e-12


@dataclass(frozen=True)
class Measured:
    """A group's figure.

    Args:
        group: name.
        estimate: a rate or AUC; the resamples of all groups draw the same patients.
        shrunken: the figure, a little nearer to a half.
        least_variance: what the sampling variance is at least.
    """

    group: str
    estimate: Estimate
    shrunken: float
    least_variance: float

    @classmethod
    def rate(cls, group: str, estimate: Estimate, trials: int) -> Self:
        """A rate counted in `trials` independent trials, to which one of each outcome is added."""
        shrunken = (estimate.value * trials + 1) / (trials + 2)
        return cls(group, estimate, shrunken, shrunken * (1 - shrunken) / (trials + 2))

    @classmethod
    def auc(cls, group: str, estimate: Estimate, positives: int, negatives: int) -> Self:
        """An AUC between so many independent positives and negatives."""
        fewer = min(positives, negatives)
        shrunken = (estimate.value * fewer + 0.5) / (fewer + 1)
        return cls(group, estimate, shrunken, auc_variance(shrunken, positives, negatives))


@dataclass(frozen=True)
class Pair:
    """Difference between two groups, with limits that hold for all pairs at once.

    `difference` is that of the figures as reported, the limits lie around that of shrunken ones.
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
    draws = np.stack([m.estimate.draws for m in measured], axis=1)
    defined = np.isfinite(draws).all(axis=1)
    values = np.array([m.estimate.value for m in measured])
    covariance = np.atleast_2d(np.cov(draws[defined], rowvar=False))
    least = np.array([m.least_variance for m in measured])
    covariance[np.diag_indices_from(covariance)] = np.maximum(np.diag(covariance), least)
    pairs = np.array(list(combinations(range(len(values)), 2)))
    contrast = np.zeros((len(pairs), len(values)))
    contrast[np.arange(len(pairs)), pairs[:, 0]] = 1
    contrast[np.arange(len(pairs)), pairs[:, 1]] = -1
    error = np.sqrt(np.einsum("pi,ij,pj->p", contrast, covariance, contrast))
    difference = contrast @ values
    shrunken = contrast @ np.array([m.shrunken for m in measured])
    largest_of = _largest_of_all(contrast, covariance, error, seed)
    limit = float(np.quantile(largest_of, LEVEL))

    def pair(at: int) -> Pair:
        first, second = (measured[i].group for i in pairs[at])
        sign = 1.0 if difference[at] >= 0 else -1.0
        if sign < 0:
            first, second = second, first
        middle, half = sign * float(shrunken[at]), limit * float(error[at])
        low, high = max(-1.0, middle - half), min(1.0, middle + half)
        return Pair(first, second, float(sign * difference[at]), low, high)

    ratio = np.abs(shrunken) / error
    clearest = int(ratio.argmax())
    p = (1 + (largest_of >= ratio[clearest]).sum()) / (1 + SIMULATED)
    return Gap(
        largest=pair(int(np.abs(difference).argmax())),
        clearest=pair(clearest),
        p=float(p),
        excludes_equality=bool(ratio[clearest] > limit),
    )


def _largest_of_all(contrast: Floats, covariance: Floats, error: Floats, seed: int) -> Floats:
    """Largest studentised difference (S,) where all groups are equal."""
    size = len(covariance)
    root = np.linalg.cholesky(covariance + JITTER * np.trace(covariance) * np.eye(size))
    normal = np.random.default_rng(seed).standard_normal((SIMULATED, size))
    largest: Floats = np.abs(normal @ root.T @ contrast.T / error).max(axis=1)
    return largest


def auc_variance(auc: float, positives: int, negatives: int) -> float:
    """Variance of an AUC between so many independent positives and negatives."""
    of_positives, of_negatives = auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2
    spread = auc * (1 - auc) + (positives - 1) * of_positives + (negatives - 1) * of_negatives
    return spread / (positives * negatives)


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
    patients = rows.loc[labelled, "group"].to_numpy(object)
    known = np.array([name is not None for name in names], dtype=bool)
    if not known.any():
        return []
    rates = MetricFrame(
        metrics=RATES,
        y_true=scored.labels[known].astype(int),
        y_pred=scored.positives[known].astype(int),
        sensitive_features=pd.Series(names[known], name=division.by),
    ).by_group
    groups = []
    for name in division.groups:
        here = names == name
        if here.any():
            groups.append(
                _group(name, scored.where(here), rates.loc[name], weights[:, here], patients[here])
            )
    return groups


def _group(
    name: str,
    scored: Scored,
    rates: "pd.Series[Any]",
    weights: Weights,
    patients: Names,
) -> Group:
    yes = scored.labels > 0
    sizes = {
        "n": int(rates["n"]),
        "patients": len(set(patients)),
        "positives": int(yes.sum()),
        "negatives": int((~yes).sum()),
    }
    trials = {"fnr": len(set(patients[yes])), "fpr": len(set(patients[~yes]))}
    few = _too_few(sizes["n"], trials)
    wanted = [metric for metric in METRICS if metric not in few]
    draws = counted(scored, weights) if {"fnr", "fpr"} & set(wanted) else {}
    measured = {}
    for metric, opposite in (("fnr", "sensitivity"), ("fpr", "specificity")):
        if metric in wanted:
            estimate = Estimate(float(rates[metric]), 1 - draws[opposite], trials=trials[metric])
            measured[metric] = Measured.rate(name, estimate, trials[metric])
    if "auc" in wanted:
        estimate = auc_estimate(scored, weights)
        measured["auc"] = Measured.auc(name, estimate, trials["fnr"], trials["fpr"])
    return Group(name, sizes, measured, few)


def _too_few(studies: int, patients: dict[str, int]) -> dict[str, str]:
    """Figure → why it is not given, for those that are not.

    Args:
        studies: in the group.
        patients: with the finding (`fnr`) and without it (`fpr`).
    """
    if studies < SMALLEST_GROUP:
        return dict.fromkeys(METRICS, f"too few: {studies} studies")
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
