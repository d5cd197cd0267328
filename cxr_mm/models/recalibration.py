"""Recalibration: a bundle's logits updated for an external site, by the smallest adequate change.

A closed testing procedure chooses between no update, a new intercept, and a new intercept and slope
(Vergouwe et al., Stat Med 2017; 36:4529, without its last step, the revision of all coefficients):
the fewer the studies, the larger a misfit must be before more is changed. Steyerberg, Clinical
Prediction Models, 2nd ed. 2019, chapter 20.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from scipy.stats import chi2
from torch import Tensor

from cxr_mm.core.task import Problem
from cxr_mm.core.types import Frozen, Modality
from cxr_mm.models.bundle import RECALIBRATED, Bundle
from cxr_mm.models.calibration import Calibration, log_likelihoods, subset_index, subset_mask
from cxr_mm.models.decision import Conformal, OperatingPoints
from cxr_mm.models.optim import minimise

Method = Literal["none", "intercept", "intercept_and_slope"]
SIGNIFICANCE = 0.05
SLOPE_SPREAD = 1.0
"""Prior standard deviation of the log slope. The slope stays above 0: where a model ranks studies
in reverse, recalibration may return the prevalence but never inverts the model."""
INTERCEPT_SPREAD = 10.0
"""Nearly flat; multiclass intercepts need a prior, since only their differences matter."""


class Update(Frozen):
    """New logit = intercept + slope × old logit, for one finding and one subset."""

    method: Method
    slope: float
    intercept: float
    p_any: float
    """p-value of the old logits against a new intercept and slope."""
    p_slope: float
    """p-value of a new intercept alone against a new intercept and slope."""


Updates = Mapping[tuple[Modality, ...], Mapping[str, Update]]
"""Subset → finding → update; any other stays unchanged."""


def choose_updates(
    logits: Tensor,
    labels: Tensor,
    problem: Problem,
    independent: float,
    shifted: Sequence[bool] | None = None,
) -> list[Update]:
    """Choose and fit an update for each finding; the classes of a multiclass task share a slope.

    Args:
        logits: (N, F) calibrated logits of the site's studies; for multiclass, log probabilities
            serve as well.
        labels: (N, F) 1, 0 or NaN, each class among them.
        problem: of the task.
        independent: patients per study, by which the test statistics are multiplied, since studies
            of one patient are not independent.
        shifted: (F,) whether other data already show a misfit; then at least the intercept is new.
    """
    logits, labels = logits.double(), labels.double()
    known = shifted or [False] * logits.shape[1]
    if problem == "multiclass":
        return _closed_test(logits, labels, problem, independent, any(known))
    columns = zip(logits.T[..., None], labels.T[..., None], known, strict=True)
    return [_closed_test(z, y, problem, independent, off)[0] for z, y, off in columns]


def _closed_test(
    logits: Tensor, labels: Tensor, problem: Problem, independent: float, off: bool
) -> list[Update]:
    """Choose the smallest update that the largest one does not significantly improve on."""
    outputs = logits.shape[1]
    unchanged = float(log_likelihoods(logits, labels, problem).sum())
    _, shift, moved = _fit(logits, labels, problem, sloped=False)
    slope, lift, lifted = _fit(logits, labels, problem, sloped=True)
    free = outputs if problem == "multiclass" else outputs + 1
    p_any = float(chi2.sf(2 * independent * (lifted - unchanged), free))
    p_slope = float(chi2.sf(2 * independent * (lifted - moved), 1))
    method: Method = "intercept_and_slope"
    if p_any >= SIGNIFICANCE and not off:
        method, slope, lift = "none", 1.0, torch.zeros(outputs)
    elif p_slope >= SIGNIFICANCE:
        method, slope, lift = "intercept", 1.0, shift
    return [
        Update(method=method, slope=slope, intercept=value, p_any=p_any, p_slope=p_slope)
        for value in lift.tolist()
    ]


def _fit(
    logits: Tensor, labels: Tensor, problem: Problem, *, sloped: bool
) -> tuple[float, Tensor, float]:
    """Slope, intercepts (F,) and their log likelihood, by penalised maximum likelihood."""
    log_slope = torch.zeros(1, dtype=torch.float64, requires_grad=sloped)
    intercept = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)

    def likelihood() -> Tensor:
        return log_likelihoods(log_slope.exp() * logits + intercept, labels, problem).sum()

    def loss() -> Tensor:
        prior = log_slope.square().sum() / (2 * SLOPE_SPREAD**2)
        prior = prior + intercept.square().sum() / (2 * INTERCEPT_SPREAD**2)
        return prior - likelihood()

    minimise([log_slope, intercept] if sloped else [intercept], loss, steps=200)
    with torch.no_grad():
        return float(log_slope.exp()), intercept.detach(), float(likelihood())


def recalibrate(
    bundle: Bundle,
    updates: Updates,
    points: OperatingPoints,
    bounds: Conformal,
    labels: Tensor,
    record: Mapping[str, Any],
) -> Bundle:
    """Build a bundle, not yet saved, with probabilities, thresholds and bounds of the site.

    Args:
        bundle: not changed.
        updates: of the subsets and findings that were fitted.
        points: new operating points; others are copied.
        bounds: new conformal bounds; others are copied.
        labels: (N, F) 1, 0 or NaN of the site's studies, for the prevalence.
        record: source of the studies and what was done; stored under `trained_on` with the digest
            of `bundle`.
    """
    names = bundle.task.finding_names
    fusion = deepcopy(bundle.fusion)
    for subset, found in updates.items():
        for name, update in found.items():
            _apply(fusion.calibration, subset, names.index(name), update)
    changed = [f for f, name in enumerate(names) if any(name in u for u in updates.values())]
    empty = Calibration((None,), len(names))
    empty.fit_prevalence(labels, bundle.task.problem)
    fusion.calibration.bias[0, changed] = empty.bias[0, changed].to(fusion.calibration.bias)
    before = bundle.trained_on.get(RECALIBRATED, [])
    return replace(
        bundle,
        fusion=fusion,
        operating_points=_over(bundle.operating_points, points),
        conformal=_over(bundle.conformal, bounds),
        trained_on={
            **bundle.trained_on,
            RECALIBRATED: [*before, {"parent": bundle.digest, **record}],
        },
        digest="",
    )


def _apply(
    calibration: Calibration, subset: tuple[Modality, ...], finding: int, update: Update
) -> None:
    """Apply an update after the present calibration, in place.

    Logits and knots move alike, so the isotonic step keeps its place.
    """
    index = int(subset_index(subset_mask(subset)))
    for part in (calibration.weight[index, :], calibration.shift[index].T):
        part[:, finding] *= update.slope
    for part in (calibration.bias[index], calibration.knots[index]):
        part[finding] = part[finding] * update.slope + update.intercept


Values = TypeVar("Values")


def _over(
    old: Mapping[str, dict[str, Values]], new: Mapping[str, dict[str, Values]]
) -> dict[str, dict[str, Values]]:
    """Merge by subset and finding; new values take precedence."""
    return {subset: {**found, **new.get(subset, {})} for subset, found in old.items()}
