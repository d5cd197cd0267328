"""Metrics of binary predictions, each for many weightings of the same studies at once.

A row of `weights` is how often each study counts, so that a bootstrap over patients is a matrix
of multiplicities instead of a loop over copies of the data. A metric that is not defined, as AUC
without a negative study, is NaN, never 0.

Sources: AUC as the Mann-Whitney statistic, ties counted half (Hanley and McNeil, Radiology 1982;
143:29); average precision as the sum of precision over steps of recall, not interpolated (Davis
and Goadrich, ICML 2006; scikit-learn's definition); Brier, Monthly Weather Review 1950; 78:1;
expected calibration error (Naeini et al., AAAI 2015) over bins of equal mass (Nixon et al., CVPR
Workshops 2019); calibration in the large, intercept and slope (Van Calster et al., BMC Medicine
2019; 17:230).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

Floats = NDArray[np.float64]

METRICS = (
    "auc",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "brier",
    "ece",
    "calibration_in_the_large",
    "calibration_intercept",
    "calibration_slope",
)
SMALLEST = 20
"""Positives or negatives below which a finding's figures carry a caution."""
CLIP = 1e-6
"""Distance from 0 and 1 at which probabilities are clipped before their logit is taken."""
STEPS = 40
"""Newton steps after which a fit that has not settled is given up."""
BLOCK = 1 << 17
"""Weights worked on at a time: few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Scored:
    """Labelled studies and what was predicted of one finding; missing labels already left out.

    Args:
        labels: (N,) 1 or 0.
        probabilities: (N,) in [0, 1].
        positives: (N,) whether the prediction was positive.
    """

    labels: Floats
    probabilities: Floats
    positives: NDArray[np.bool_]

    @classmethod
    def known(
        cls, labels: ArrayLike, probabilities: ArrayLike, positives: ArrayLike
    ) -> tuple["Scored", NDArray[np.bool_]]:
        """Leave out studies without a label; also return the mask (N,) of labelled ones."""
        values = np.asarray(labels, dtype=np.float64)
        labelled = np.isfinite(values)
        scored = cls(
            values[labelled],
            np.asarray(probabilities, dtype=np.float64)[labelled],
            np.asarray(positives, dtype=bool)[labelled],
        )
        return scored, labelled

    def where(self, rows: NDArray[np.bool_]) -> "Scored":
        """Select the studies of a mask (N,)."""
        return Scored(self.labels[rows], self.probabilities[rows], self.positives[rows])

    @property
    def n_positive(self) -> int:
        return int(self.labels.sum())

    def __len__(self) -> int:
        return len(self.labels)


def measure(scored: Scored, weights: ArrayLike | None = None) -> dict[str, Floats]:
    """Every metric of METRICS for each row of weights.

    Args:
        scored: N studies.
        weights: (B, N) how often each study counts; None counts each once (B = 1).

    Returns:
        Name → (B,), NaN where not defined.
    """
    intercept, slope = calibration_line(scored, weights)
    figures = {
        "auc": auc(scored, weights),
        "average_precision": average_precision(scored, weights),
        "ece": expected_calibration_error(scored, weights),
        "calibration_intercept": intercept,
        "calibration_slope": slope,
        **counted(scored, weights),
    }
    return {name: figures[name] for name in METRICS}


def auc(scored: Scored, weights: ArrayLike | None = None) -> Floats:
    """Area under the ROC curve (B,): the chance that a positive scores above a negative."""

    def of(positive: Floats, negative: Floats) -> Floats:
        below = np.cumsum(negative, axis=1) - negative / 2
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        return np.asarray((positive * below).sum(axis=1) / pairs)

    return _over_scores(scored, weights, of)


def average_precision(scored: Scored, weights: ArrayLike | None = None) -> Floats:
    """Average precision (B,): precision at each distinct score, weighted by the recall it adds."""

    def of(positive: Floats, negative: Floats) -> Floats:
        found = np.cumsum(positive[:, ::-1], axis=1)
        called = found + np.cumsum(negative[:, ::-1], axis=1)
        precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
        area = (positive[:, ::-1] * precision).sum(axis=1) / found[:, -1]
        return np.where(negative.sum(axis=1) > 0, area, np.nan)

    return _over_scores(scored, weights, of)


def counted(scored: Scored, weights: ArrayLike | None = None) -> dict[str, Floats]:
    """Metrics that are ratios of sums over studies: of the four counts, and of the squared error.

    `f1`, `sensitivity` and `balanced_accuracy` need a positive study, `specificity` and
    `balanced_accuracy` a negative one, `ppv` and `npv` a study predicted so.
    """
    yes, called = scored.labels > 0, scored.positives
    cells = [yes & called, ~yes & called, yes & ~called, ~yes & ~called]
    error = scored.probabilities - scored.labels
    columns = np.stack([*cells, error**2, error], axis=1).astype(np.float64)
    sums = np.concatenate([block @ columns for block in _blocks(weights, len(scored))])
    tp, fp, fn, tn, squares, errors = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        n = tp + fp + fn + tn
        return {
            "accuracy": (tp + tn) / n,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1": np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan),
            "brier": squares / n,
            "calibration_in_the_large": errors / n,
        }


def proportions(scored: Scored) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Those metrics that are shares of studies: (N,) studies counted, and those they are among."""
    yes, called = scored.labels > 0, scored.positives
    return {
        "accuracy": (yes == called, np.ones_like(yes)),
        "sensitivity": (called, yes),
        "specificity": (~called, ~yes),
        "ppv": (yes, called),
        "npv": (~yes, ~called),
    }


ECE_BINS = 10
"""Bins of the calibration error and of reliability curves."""


def equal_mass_bins(probabilities: Floats, bins: int = ECE_BINS) -> NDArray[np.intp]:
    """Bin (N,) of each probability: cut at quantiles, so that bins hold about as many studies.

    Equal probabilities share a bin, so there may be fewer bins than requested.
    """
    if not len(probabilities):
        return np.zeros(0, dtype=np.intp)
    cuts = np.unique(np.quantile(probabilities, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(cuts, probabilities, side="right")


def expected_calibration_error(scored: Scored, weights: ArrayLike | None = None) -> Floats:
    """Mean over studies of |mean probability − share of positives| of their bin (B,).

    Bins are of equal mass in the sample as it is and stay where they are in every resample.
    The figure is biased upward in small samples, which `limits.calibration_error` removes.
    """
    which = equal_mass_bins(scored.probabilities)
    inside = (which[:, None] == np.arange(ECE_BINS)).astype(np.float64)
    columns = np.concatenate(
        [inside * (scored.probabilities - scored.labels)[:, None], inside], axis=1
    )
    sums = np.concatenate([block @ columns for block in _blocks(weights, len(scored))])
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(sums[:, :ECE_BINS]).sum(axis=1) / sums[:, ECE_BINS:].sum(axis=1))


def calibration_line(scored: Scored, weights: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """Calibration intercept (slope fixed at 1) and slope, (B,) each; 0 and 1 are ideal.

    Logistic regression of the label on the logit of the probability. A slope below 1 says that
    predictions are too extreme. NaN where a class is absent or the classes are separated.
    """
    x = logit(np.clip(scored.probabilities, CLIP, 1 - CLIP))
    level, flat = np.ones((len(x), 1)), np.zeros_like(x)
    line = np.stack([np.ones_like(x), x], axis=1)
    once = np.ones((1, len(x)))
    starts = _logistic(scored.labels, level, x, once), _logistic(scored.labels, line, flat, once)
    fits = [
        (
            _logistic(scored.labels, level, x, block, starts[0])[:, 0],
            _logistic(scored.labels, line, flat, block, starts[1])[:, 1],
        )
        for block in _blocks(weights, len(x))
    ]
    return np.concatenate([f[0] for f in fits]), np.concatenate([f[1] for f in fits])


def _logistic(
    labels: Floats, design: Floats, offset: Floats, weights: Floats, start: Floats | None = None
) -> Floats:
    """Newton's method for each row of weights; (B, K), NaN where it does not settle."""
    size = design.shape[1]
    products = (design[:, :, None] * design[:, None, :]).reshape(len(labels), size * size)
    first = np.zeros((1, size)) if start is None else np.nan_to_num(start)
    beta = np.repeat(first, len(weights), axis=0)
    moving = np.full(len(weights), len(labels) > 0)
    for _ in range(STEPS):
        mean = expit(offset + beta[moving] @ design.T)
        part = weights[moving]
        slope = (part * (labels - mean)) @ design
        curve = (part * mean * (1 - mean)) @ products
        step, solved = _solve(curve.reshape(-1, size, size), slope)
        beta[moving] += np.clip(step, -2, 2)
        beta[np.flatnonzero(moving)[~solved]] = np.nan
        moving[moving] = solved & (np.abs(step).max(axis=1) > 1e-9)
        if not moving.any():
            break
    beta[moving] = np.nan
    return beta if len(labels) else np.full_like(beta, np.nan)


def _solve(curve: Floats, slope: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Solve (B, K, K) systems; also return which of them are far enough from singular."""
    size = slope.shape[1]
    scale = np.trace(curve, axis1=1, axis2=2) / size
    solved = (scale > 1e-9) & (np.linalg.det(curve) > 1e-9 * scale**size)
    step = np.zeros_like(slope)
    step[solved] = np.linalg.solve(curve[solved], slope[solved][..., None])[..., 0]
    return step, solved


def _over_scores(
    scored: Scored, weights: ArrayLike | None, metric: Callable[[Floats, Floats], Floats]
) -> Floats:
    """Apply a metric to the mass of positives and negatives (B, G) at each distinct score."""
    if not len(scored):
        return np.full(1 if weights is None else len(np.asarray(weights)), np.nan)
    order = np.argsort(scored.probabilities, kind="stable")
    scores, labels = scored.probabilities[order], scored.labels[order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    found = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for block in _blocks(weights, len(scored)):
            sorted_block = block[:, order]
            positive = np.add.reduceat(sorted_block * labels, starts, axis=1)
            negative = np.add.reduceat(sorted_block * (1 - labels), starts, axis=1)
            found.append(metric(positive, negative))
    return np.concatenate(found)


def _blocks(weights: ArrayLike | None, n: int) -> Iterator[Floats]:
    """Weights as float64, a few rows at a time; a single row of ones where there are none."""
    rows = np.ones((1, n)) if weights is None else np.asarray(weights)
    step = max(1, BLOCK // max(n, 1))
    for start in range(0, len(rows), step):
        yield rows[start : start + step].astype(np.float64)
