"""Isotonic: the monotone step after parametric calibration, as knots in logits.

Pool adjacent violators (Ayer et al. 1955; as calibration Zadrozny and Elkan 2002) over groups of
equal mass, each pooled block one knot with straight lines between (centred isotonic regression,
Oron and Flournoy 2017). So the map rises strictly: no two studies change places, and no gradient
vanishes on a step.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit

Floats = NDArray[np.float64]

KNOTS = 32
GROUP = 25
"""Studies a group holds at least."""
SPREAD = 0.5
"""Standard deviation of a block's shift around none, before any data is seen."""
LIMIT = 15.0
"""Logits are held this close to 0 before they are counted: beyond it a probability is 0 or 1."""


def isotonic_shift(logits: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """What to add to a logit so that probabilities are the shares seen.

    A block's share is pulled towards what parametric calibration says of it, as by a normal prior
    in logits around that, so that a block without a positive (or negative) study stays finite and
    little is lost where the parametric calibration was right.

    Args:
        logits: (N,) parametrically calibrated, of held-out studies.
        labels: (N,) 1 or 0.

    Returns:
        Knots (K,) in logits, rising strictly, K at most KNOTS, and the shift (K,) at each, their
        sum rising strictly too; the shift is linear between knots and constant beyond them.
    """
    probabilities = expit(logits.clip(-LIMIT, LIMIT))
    groups = _equal_mass(logits)
    size = np.bincount(groups).astype(np.float64)
    positive = np.bincount(groups, weights=labels)
    expected = np.bincount(groups, weights=probabilities)

    blocks = isotonic_regression(positive / size, weights=size).blocks[:-1]
    size, positive, expected = (np.add.reduceat(a, blocks) for a in (size, positive, expected))
    mean = expected / size
    prior = 1 / (SPREAD**2 * mean * (1 - mean))
    weight = size + prior
    share = isotonic_regression((positive + prior * mean) / weight, weights=weight)

    starts = share.blocks[:-1]
    knots = logit(np.add.reduceat(expected, starts) / np.add.reduceat(size, starts))
    return knots, logit(share.x[starts]) - knots


def _equal_mass(logits: Floats) -> NDArray[np.intp]:
    """Group (N,) of each study, none empty; equal logits share a group."""
    count = int(np.clip(len(logits) // GROUP, 1, KNOTS))
    cuts = np.quantile(logits, np.linspace(0, 1, count + 1)[1:-1])
    number: NDArray[np.intp] = np.unique(
        np.searchsorted(cuts, logits, side="right"), return_inverse=True
    )[1]
    return number
