"""Concept drift: performance on labelled studies of a window against the reference, or estimated.

For each finding, AUC, sensitivity, specificity, Brier score and calibration in the large (mean
probability minus share of positives) of the labelled window are compared with those of the labelled
reference by a permutation test (Fisher 1935): patients of both are pooled and divided at random,
scores are standardised by these divisions, and the largest score of all metrics and findings keeps
the false-alarm rate (Westfall and Young 1993). Divisions of the reference alone would not do: a
reference with few errors underestimates how much they vary.

`estimate` predicts the same metrics without labels, from the probabilities (CBPE).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.types import FEWEST_PATIENTS
from cxr_mm.evaluation.metrics import Scored, auc
from monitoring.statistics import draw_windows, high_score

Metric = Literal["auc", "sensitivity", "specificity", "brier", "calibration"]
METRICS: tuple[Metric, ...] = ("auc", "sensitivity", "specificity", "brier", "calibration")
BETTER: Mapping[Metric, float] = {"auc": 1.0, "sensitivity": 1.0, "specificity": 1.0, "brier": -1.0}
"""Sign of better; only a change for the worse counts. Calibration counts both ways."""
FEWEST_OF_CLASS = 5
DRAWS = 500
COLUMNS_OF_FINDING = ("label", "probability", "positive")
Floats = NDArray[np.float64]
Key = tuple[str, Metric]
Performance = dict[Key, Floats]


@dataclass(frozen=True)
class MetricResult:
    """One metric of one finding, window against reference.

    Args:
        finding: name of the finding.
        metric: name of the metric.
        reference, current: its values.
        low, high: 95 % interval of random windows; None for fewer than `FEWEST_PATIENTS`.
        score: standard deviations by which the change for the worse exceeds the usual one.
        n: labelled studies of the window.
    """

    finding: str
    metric: Metric
    reference: float
    current: float
    low: float | None
    high: float | None
    score: float
    n: int


@dataclass(frozen=True)
class ConceptResult:
    """Performance of a window against the reference.

    Args:
        metrics: all of them, highest score first.
        largest: the largest score of each random division, ascending.
        longer: whether this is the longer window, with the windows before.
        part: share of the false-alarm rate of the concept family that this window gets.
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
    """Score the labelled rows of a window; None where no metric can be tested.

    A metric that needs a class is tested where the window has at least 5 studies of that class.
    """
    current, reference = labelled(current, findings), labelled(reference, findings)
    if current.empty or reference.empty:
        return None
    now, before = performance(current, findings), performance(reference, findings)
    keys = [k for k in _sufficient(current, findings) if np.isfinite(before[k][0])]
    if not keys:
        return None
    inside, external = _permuted(current, reference, findings, seed)
    results, scores = [], []
    for key in keys:
        finding, metric = key
        null = _worse(metric, inside[key], external[key])
        mean = np.nanmean(null)
        spread = max(float(np.nanstd(null)), float(_smallest_spread(current, finding)))
        worse = _worse(metric, now[key], before[key])[0]
        scores.append((null - mean) / spread)
        rows = current[current[f"label.{finding}"].notna()]
        low, high = _interval(inside[key], rows)
        results.append(
            MetricResult(
                finding=finding,
                metric=metric,
                reference=float(before[key][0]),
                current=float(now[key][0]),
                low=low,
                high=high,
                score=float((worse - mean) / spread),
                n=len(rows),
            )
        )
    largest = np.nanmax(np.stack(scores), axis=0)
    ranked = tuple(sorted(results, key=lambda r: -r.score))
    return ConceptResult(ranked, np.sort(largest))


def _interval(values: Floats, rows: pd.DataFrame) -> tuple[float, float] | tuple[None, None]:
    """95 % quantiles of a metric over samples of these rows, if they are of enough patients."""
    if rows["patient"].nunique() < FEWEST_PATIENTS:
        return None, None
    low, high = np.nanquantile(values, (0.025, 0.975))
    return float(low), float(high)


def _permuted(
    current: pd.DataFrame, reference: pd.DataFrame, findings: Sequence[str], seed: int
) -> tuple[Performance, Performance]:
    """Performance of random windows by patient, as large as this one, and of their complements."""
    columns = ["patient", *(f"{c}.{name}" for name in findings for c in COLUMNS_OF_FINDING)]
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
    """Compute every metric (R,), NaN where it is not defined.

    Args:
        table: rows (n) with `label.*`, `probability.*`, `positive.*`.
        findings: names.
        counts: how often each row is in each of R samples, (R, n); None: each row once.
    """
    counts = np.ones((1, len(table))) if counts is None else counts
    result: Performance = {}
    for name in findings:
        rows = (table[f"label.{name}"].notna() & table[f"probability.{name}"].notna()).to_numpy()
        label = table[f"label.{name}"].to_numpy(np.float64)[rows]
        probability = table[f"probability.{name}"].to_numpy(np.float64)[rows]
        positive = np.asarray(table[f"positive.{name}"] == "yes", np.float64)[rows]
        c = counts[:, rows]
        result[name, "auc"] = auc(Scored(label, probability, positive > 0), c)
        result[name, "sensitivity"] = _mean(positive, c * label)
        result[name, "specificity"] = _mean(1 - positive, c * (1 - label))
        result[name, "brier"] = _mean((probability - label) ** 2, c)
        result[name, "calibration"] = _mean(probability - label, c)
    return result


def _mean(values: Floats, weights: Floats) -> Floats:
    total = weights.sum(axis=1)
    return np.where(total > 0, weights @ values / np.where(total > 0, total, 1.0), np.nan)


def _worse(metric: Metric, current: Floats, reference: Floats) -> Floats:
    """Change for the worse; for calibration any change."""
    change = current - reference
    return -BETTER[metric] * change if metric in BETTER else np.abs(change)


def _sufficient(current: pd.DataFrame, findings: Sequence[str]) -> list[Key]:
    """Metrics for which the window has enough labels of each class."""
    keys: list[Key] = []
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


def _smallest_spread(current: pd.DataFrame, finding: str) -> float:
    """Smallest spread of a metric: one study more or less, where the reference has no error."""
    label = current[f"label.{finding}"]
    return 1.0 / max(min((label == 1).sum(), (label == 0).sum()), FEWEST_OF_CLASS)


ESTIMATED: tuple[Metric, ...] = tuple(m for m in METRICS if m != "calibration")
"""All but calibration in the large, which the method assumes to be 0."""
ESTIMATE_DRAWS = 200


@dataclass(frozen=True)
class Estimate:
    """One metric of one finding, estimated.

    Args:
        finding: name of the finding.
        metric: name of the metric.
        reference: its value on the labelled reference.
        value, low, high: estimate for the window with its 95 % interval; None for fewer than
            `FEWEST_PATIENTS`.
        labelled: labelled studies of the window.
        estimated, observed: on the labelled studies alone; NaN without labels.
        within: whether `observed` is inside the interval of `estimated`; None without labels, or of
            too few labelled patients.
    """

    finding: str
    metric: Metric
    reference: float
    value: float
    low: float | None
    high: float | None
    labelled: int
    estimated: float
    observed: float
    within: bool | None

    @property
    def compared(self) -> bool:
        """Whether labels were there to compare with."""
        return bool(np.isfinite(self.observed))


def estimate(
    current: pd.DataFrame, reference: pd.DataFrame, findings: Sequence[str]
) -> list[Estimate]:
    """Estimate the performance on a window without labels.

    Outcomes are drawn from the probabilities; the metric over these draws has the estimate as its
    mean and the interval as its 95 % quantiles.
    """
    past, known = labelled(reference, findings), labelled(current, findings)
    before, observed = (
        {key: float(value[0]) for key, value in performance(table, findings).items()}
        if len(table)
        else {}
        for table in (past, known)
    )
    whole, part = _estimated(current, findings), _estimated(known, findings)
    estimates = []
    for key, values in whole.items():
        if not np.isfinite(values).any():
            continue
        low, high = _interval(values, current)
        estimated, now = _mean_of(part.get(key)), observed.get(key, np.nan)
        estimates.append(
            Estimate(
                *key,
                reference=before.get(key, np.nan),
                value=float(np.nanmean(values)),
                low=low,
                high=high,
                labelled=len(known),
                estimated=estimated if np.isfinite(now) else np.nan,
                observed=now,
                within=_within(now, part.get(key), known),
            )
        )
    return estimates


def _mean_of(values: Floats | None) -> float:
    return float(np.nanmean(values)) if values is not None and np.isfinite(values).any() else np.nan


def _within(observed: float, estimated: Floats | None, known: pd.DataFrame) -> bool | None:
    if estimated is None or not np.isfinite(observed) or not np.isfinite(estimated).any():
        return None
    low, high = _interval(estimated, known)
    return None if low is None or high is None else low <= observed <= high


def _estimated(table: pd.DataFrame, findings: Sequence[str]) -> Performance:
    """Metric → its value (DRAWS,) under outcomes drawn from the probabilities."""
    rng = np.random.default_rng(0)
    values: dict[Key, list[float]] = {}
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
                values.setdefault(key, []).append(float(value[0]))
    return {key: np.array(each) for key, each in values.items()}
