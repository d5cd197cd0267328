"""Concept drift: do the same predictions still mean the same labels, where labels have come?

Per finding AUC, sensitivity, specificity, Brier score and calibration in the large (mean
probability minus share of positives) of the labelled window are held against those of the
labelled reference. Were nothing different, it would be chance which of all these patients are the
window (permutation test, Fisher 1935): scores are standardised by such divisions, and the largest
score of all metrics and findings keeps the false-alarm rate (Westfall and Young 1993). Divisions of
the reference alone would not do: one that happens to hold few errors knows too little of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.evaluation.metrics import Scored, auc
from monitoring.statistics import draw_windows, high_score

Metric = Literal["auc", "sensitivity", "specificity", "brier", "calibration"]
METRICS: tuple[Metric, ...] = ("auc", "sensitivity", "specificity", "brier", "calibration")
BETTER: Mapping[Metric, float] = {"auc": 1.0, "sensitivity": 1.0, "specificity": 1.0, "brier": -1.0}
"""Sign of better; only a change for the worse counts. Calibration counts both ways."""
FEWEST_OF_CLASS = 5
DRAWS = 500
OF_FINDING = ("label", "probability", "positive")
Floats = NDArray[np.float64]
Performance = dict[tuple[str, Metric], Floats]


@dataclass(frozen=True)
class MetricResult:
    """One metric of one finding, window against reference.

    Args:
        finding: name of the finding.
        metric: which figure.
        reference, current: its values.
        low, high: between which 95 % of windows by chance lie.
        score: standard deviations by which the change for the worse exceeds the usual one.
        n: labelled studies of the window.
    """

    finding: str
    metric: Metric
    reference: float
    current: float
    low: float
    high: float
    score: float
    n: int


@dataclass(frozen=True)
class ConceptResult:
    """How a window does.

    Args:
        metrics: all of them, highest score first.
        largest: the largest score of each division by chance.
        longer: whether it is of the longer window.
        part: what of the family's rate of false alarms is this window's.
    """

    metrics: tuple[MetricResult, ...]
    largest: Floats
    longer: bool = False
    part: float = 1.0

    def limit(self, rate: float) -> float:
        """Score that an undrifted window exceeds with a chance of its part of `rate`."""
        return high_score(self.largest, self.part * rate)


def score_concept(
    current: pd.DataFrame, reference: pd.DataFrame, findings: Sequence[str], seed: int = 0
) -> ConceptResult | None:
    """Score the labelled rows of a window; None where no metric can be judged.

    A metric that needs a class is judged where the window has at least 5 of it.
    """
    current, reference = labelled(current, findings), labelled(reference, findings)
    if current.empty or reference.empty:
        return None
    here, present = performance(current, findings), performance(reference, findings)
    keys = [k for k in _comparable(current, findings) if np.isfinite(present[k][0])]
    if not keys:
        return None
    inside, external = _by_chance(current, reference, findings, seed)
    results, scores = [], []
    for key in keys:
        finding, metric = key
        null = _worse(metric, inside[key], external[key])
        mean = np.nanmean(null)
        spread = max(float(np.nanstd(null)), float(_least(current, finding)))
        worse = _worse(metric, here[key], present[key])[0]
        scores.append((null - mean) / spread)
        low, high = np.nanquantile(inside[key], (0.025, 0.975))
        results.append(
            MetricResult(
                finding=finding,
                metric=metric,
                reference=float(present[key][0]),
                current=float(here[key][0]),
                low=float(low),
                high=float(high),
                score=float((worse - mean) / spread),
                n=int(current[f"label.{finding}"].notna().sum()),
            )
        )
    largest = np.nanmax(np.stack(scores), axis=0)
    ranked = tuple(sorted(results, key=lambda r: -r.score))
    return ConceptResult(ranked, np.sort(largest))


def _by_chance(
    current: pd.DataFrame, reference: pd.DataFrame, findings: Sequence[str], seed: int
) -> tuple[Performance, Performance]:
    """Performance of windows drawn from both by patient, as large as this one, and of the rest."""
    columns = ["patient", *(f"{c}.{name}" for name in findings for c in OF_FINDING)]
    pooled = pd.concat([reference[columns], current[columns]], ignore_index=True)
    owner = ["reference"] * len(reference) + ["window"] * len(current)
    # Numbered by first appearance: the order of the keyed hashes differs from log to log.
    patients, _ = pd.factorize(pooled["patient"].astype(str) + owner)
    fewer = min(len(current), len(reference))
    sampled = draw_windows(patients, fewer, DRAWS, np.random.default_rng(seed))
    inside = sampled if fewer == len(current) else 1.0 - sampled
    return performance(pooled, findings, inside), performance(pooled, findings, 1.0 - inside)


def labelled(table: pd.DataFrame, findings: Sequence[str]) -> pd.DataFrame:
    """Rows with a label of any finding."""
    columns = [f"label.{name}" for name in findings]
    return table[table[columns].notna().any(axis=1)].reset_index(drop=True)


def performance(
    table: pd.DataFrame, findings: Sequence[str], counts: Floats | None = None
) -> Performance:
    """Every metric (R,), NaN where it is not defined.

    Args:
        table: rows (n) with `label.*`, `probability.*`, `positive.*`.
        findings: names.
        counts: how often each row is in each of R samples, (R, n); None is the table itself.
    """
    counts = np.ones((1, len(table))) if counts is None else counts
    found: Performance = {}
    for name in findings:
        rows = (table[f"label.{name}"].notna() & table[f"probability.{name}"].notna()).to_numpy()
        label = table[f"label.{name}"].to_numpy(np.float64)[rows]
        probability = table[f"probability.{name}"].to_numpy(np.float64)[rows]
        positive = np.asarray(table[f"positive.{name}"] == "yes", np.float64)[rows]
        c = counts[:, rows]
        found[name, "auc"] = auc(Scored(label, probability, positive > 0), c)
        found[name, "sensitivity"] = _mean(positive, c * label)
        found[name, "specificity"] = _mean(1 - positive, c * (1 - label))
        found[name, "brier"] = _mean((probability - label) ** 2, c)
        found[name, "calibration"] = _mean(probability - label, c)
    return found


def _mean(values: Floats, weights: Floats) -> Floats:
    return _ratio(weights @ values, weights.sum(axis=1))


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), np.nan)


def _worse(metric: Metric, current: Floats, reference: Floats) -> Floats:
    """Change for the worse; for calibration any change."""
    change = current - reference
    return -BETTER[metric] * change if metric in BETTER else np.abs(change)


def _comparable(current: pd.DataFrame, findings: Sequence[str]) -> list[tuple[str, Metric]]:
    keys: list[tuple[str, Metric]] = []
    for name in findings:
        label = current[f"label.{name}"]
        yes, no = int((label == 1).sum()), int((label == 0).sum())
        enough: dict[Metric, bool] = {
            "auc": min(yes, no) >= FEWEST_OF_CLASS,
            "sensitivity": yes >= FEWEST_OF_CLASS,
            "specificity": no >= FEWEST_OF_CLASS,
            "brier": yes + no >= FEWEST_OF_CLASS,
            "calibration": yes + no >= FEWEST_OF_CLASS,
        }
        keys += [(name, metric) for metric in METRICS if enough[metric]]
    return keys


def _least(current: pd.DataFrame, finding: str) -> float:
    """Least spread of a metric: one study more or less, where the reference never errs."""
    label = current[f"label.{finding}"]
    return 1.0 / max(min((label == 1).sum(), (label == 0).sum()), FEWEST_OF_CLASS)


ESTIMATED: tuple[Metric, ...] = tuple(m for m in METRICS if m != "calibration")
"""Calibration in the large is 0 by assumption."""
ESTIMATE_DRAWS = 200


@dataclass(frozen=True)
class Estimate:
    """One metric of one finding, estimated.

    Args:
        finding: name of the finding.
        metric: which figure.
        reference: what it was on the reference's labels.
        value, low, high: estimated for the window, 95 % of outcomes that the probabilities allow.
        labelled: how many of the window's studies have a label by now.
        estimated, observed: on the labelled studies alone; NaN without labels.
        within: whether `observed` is inside the interval of `estimated`; None without labels.
    """

    finding: str
    metric: Metric
    reference: float
    value: float
    low: float
    high: float
    labelled: int
    estimated: float
    observed: float
    within: bool | None


def estimate(
    current: pd.DataFrame, reference: pd.DataFrame, findings: Sequence[str], seed: int = 0
) -> list[Estimate]:
    """Estimate the performance on a window without labels.

    Outcomes are drawn from the probabilities; the metric over these draws has the estimate as its
    mean and the interval as its 95 % quantiles.
    """
    known = labelled(reference, findings)
    present = performance(known, findings) if len(known) else {}
    here = labelled(current, findings)
    truth = performance(here, findings) if len(here) else {}
    whole, part = _estimated(current, findings, seed), _estimated(here, findings, seed)
    return [
        _estimate(key, _one(present, key), whole[key], part.get(key), _one(truth, key), len(here))
        for key in whole
        if np.isfinite(whole[key]).any()
    ]


Key = tuple[str, Metric]


def _estimate(
    key: Key,
    reference: float,
    values: Floats,
    on_labelled: Floats | None,
    observed: float,
    n: int,
) -> Estimate:
    low, high = np.nanquantile(values, (0.025, 0.975))
    within, estimated = None, np.nan
    if on_labelled is not None and np.isfinite(observed) and np.isfinite(on_labelled).any():
        estimated = float(np.nanmean(on_labelled))
        below, above = np.nanquantile(on_labelled, (0.025, 0.975))
        within = bool(below <= observed <= above)
    value = float(np.nanmean(values))
    return Estimate(*key, reference, value, float(low), float(high), n, estimated, observed, within)


def _estimated(table: pd.DataFrame, findings: Sequence[str], seed: int) -> dict[Key, Floats]:
    """Metric → its value (DRAWS,) under outcomes drawn from the probabilities."""
    rng = np.random.default_rng(seed)
    found: dict[Key, list[float]] = {}
    if table.empty:
        return {}
    for _ in range(ESTIMATE_DRAWS):
        chance = rng.random(len(table))
        labels = {
            f"label.{name}": (chance < table[f"probability.{name}"]).astype(float)
            for name in findings
        }
        for key, value in performance(table.assign(**labels), findings).items():
            if key[1] in ESTIMATED:
                found.setdefault(key, []).append(float(value[0]))
    return {key: np.array(values) for key, values in found.items()}


def _one(values: dict[Key, Floats], key: Key) -> float:
    return float(values[key][0]) if key in values else np.nan
