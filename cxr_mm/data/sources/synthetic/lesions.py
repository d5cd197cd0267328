"""Consolidation, pleural effusion, and the harmless shadows that look like them.

Each returns attenuation to be added to a thorax, (H, W); what counts as lesion in the mask is
where it adds at least `SEEN` of its own peak, inside the thorax.
"""

import numpy as np
from numpy.typing import NDArray

from cxr_mm.data.sources.synthetic.anatomy import Plane, Thorax, ramp, resized
from cxr_mm.data.sources.synthetic.population import Case

SEEN = 0.30
MAX_CONSOLIDATION = 0.40
FLUID = 1.0
"""Attenuation of a hemithorax full of fluid."""


def texture(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Plane:
    """Smooth noise of unit variance or so, with `cells` grains along the height."""
    coarse = rng.standard_normal((cells, max(2, round(cells * shape[1] / shape[0]))))
    return resized(coarse, shape)


def consolidation(thorax: Thorax, case: Case, rng: np.random.Generator) -> Plane:
    """Lobar (one large block, sharp at a fissure) or patchy (several small blurred patches)."""
    extent = case.illness.extent
    shape = thorax.x.shape
    side = case.illness.sides[0]
    lobar = rng.random() < 0.45
    grain = 0.6 * texture(rng, shape, 10) + 0.5 * texture(rng, shape, 28)
    cover = np.zeros(shape, dtype=np.float32)
    for _ in range(1 if lobar else int(rng.integers(2, 5))):
        radius = (0.20 + 0.22 * extent) if lobar else (0.10 + 0.12 * extent)
        patch = _patch(thorax, side, radius * rng.uniform(0.85, 1.15), grain, rng)
        cover = np.maximum(cover, patch)
        side = side if lobar or rng.random() < 0.6 else 1 - side
    shade: Plane = np.clip(0.85 + 0.22 * grain, 0.3, 1.3)
    opacity = MAX_CONSOLIDATION * (0.18 + 0.82 * extent)
    lungs = thorax.lungs[0] + thorax.lungs[1]
    return cover * lungs * opacity * shade


def _patch(
    thorax: Thorax, side: int, radius: float, grain: Plane, rng: np.random.Generator
) -> Plane:
    """An irregular blurred patch centred in the lung; for large ones a fissure cuts one edge."""
    centre = _point_in(thorax.lungs[side], thorax.y, rng)
    x, y = float(thorax.x[centre]), float(thorax.y[centre])
    stretch = rng.uniform(0.75, 1.3)
    far = np.hypot((thorax.x - x) * stretch, (thorax.y - y) / stretch) / radius
    patch = ramp(1.0 - far + 0.22 * grain, 0.9)
    fissure, tilt, above = rng.random() < 0.5, rng.uniform(-0.25, 0.25), rng.random() < 0.5
    if fissure and radius > 0.2:
        line = thorax.y - y - 0.35 * radius * (1 if above else -1) - tilt * (thorax.x - x)
        patch = patch * ramp(-line if above else line, 0.05)
    return patch


def _point_in(lung: Plane, y: Plane, rng: np.random.Generator) -> tuple[int, int]:
    """A pixel well inside the lung, lower parts more often."""
    inside = np.flatnonzero((lung > 0.95) & (y > -0.55))
    if not len(inside):
        inside = np.flatnonzero(lung >= lung.max())
    low = max(inside[rng.integers(0, len(inside), 2)])
    row, column = divmod(int(low), lung.shape[1])
    return row, column


def effusion(thorax: Thorax, case: Case, rng: np.random.Generator) -> Plane:
    """Fluid in the pleural field: it hides the costophrenic angle and climbs the lateral wall."""
    both = rng.random() < (0.45 if case.illness.cardiac else 0.10)
    first = case.illness.sides[1]
    shares = {first: 1.0, 1 - first: rng.uniform(0.35, 0.8) if both else 0.0}
    grain = texture(rng, thorax.x.shape, 8)
    total = np.zeros_like(thorax.x)
    for side, share in shares.items():
        if share:
            total += _fluid(thorax, side, case.illness.volume * share, case, grain)
    return total


def _fluid(thorax: Thorax, side: int, volume: float, case: Case, grain: Plane) -> Plane:
    """One side: a meniscus where the patient stood, a veil that fades upwards where they lay."""
    dome = thorax.body.domes[side]
    out = np.clip(thorax.x * (1 if side else -1) / thorax.body.lung_width, 0, 1)
    height = 0.04 + 0.80 * volume**1.3
    climbing = 0.30 + 0.70 * out ** (2.2 - 1.2 * volume)
    surface = dome + 0.20 - height * climbing
    soft = 0.10 + 0.10 * (1 - volume) if case.illness.view == "PA" else 0.35
    depth = ramp(thorax.y - surface + 0.012 * grain, soft)
    hidden: Plane = np.clip(FLUID - thorax.attenuation, 0, None)
    return thorax.fields[side] * depth * hidden * (0.35 + 0.60 * volume)


def mimics(thorax: Thorax, case: Case, rng: np.random.Generator) -> Plane:
    """What is no finding: linear atelectasis, basal haze, scars, blunted angles, a wet hilum."""
    shape = thorax.x.shape
    total: Plane = 0.020 * texture(rng, shape, 26) + 0.022 * texture(rng, shape, 9)
    u, side = rng.random(6), int(rng.random() < 0.5)
    lung, sign = thorax.lungs[side], 1 if side else -1
    out = thorax.x * sign
    dome = thorax.body.domes[side]
    tilt, low, wide = rng.uniform(-0.25, 0.25), rng.uniform(0.06, 0.25), rng.uniform(0.02, 0.06)
    if u[0] < 0.22:
        line = (thorax.y - (dome - low) - tilt * (out - 0.45)) / wide
        total = total + lung * 0.13 * np.exp(-(line**2)) * ramp(0.85 - out, 0.2)
    if u[1] < 0.18:
        total = total + lung * 0.12 * ramp(thorax.y - (dome - low), 0.5)
    if u[2] < 0.10:
        blunt = ramp(out + thorax.y - (dome + thorax.body.lung_width + 0.06), 0.12)
        total = total + 0.16 * thorax.fields[side] * blunt
    if u[3] < 0.16:
        patch = _patch(thorax, 1 - side, 0.16 + 0.16 * u[4], 0.5 * texture(rng, shape, 10), rng)
        total = total + thorax.lungs[1 - side] * patch * 0.09
    if case.illness.congestion:
        hazy = np.exp(-(((np.abs(thorax.x) - 0.25) / 0.25) ** 2) - ((thorax.y - 0.1) / 0.35) ** 2)
        total = total + (thorax.lungs[0] + thorax.lungs[1]) * 0.10 * hazy
    return total


def mask_of(added: Plane, inside: Plane) -> NDArray[np.bool_]:
    """Where a lesion is: at least `SEEN` of its peak; never empty where anything was added."""
    within = np.where(inside > 0.5, added, 0)
    peak = float(within.max())
    if peak <= 0:
        return np.zeros(added.shape, dtype=np.bool_)
    return np.asarray(within >= SEEN * peak)
