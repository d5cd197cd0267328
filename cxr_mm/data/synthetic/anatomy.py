"""The thorax of a phantom: parameters of body and positioning → a map of X-ray attenuation.

Coordinates: x to the right of the image (the patient's left), y downwards, both in half-widths of
the thorax, the origin in its middle. Attenuation is additive (Beer-Lambert): 0 is air outside the
body, about 0.3 aerated lung, 0.8 soft tissue, 1.3 spine behind heart.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from cxr_mm.data.synthetic.population import Case, Part, SynthesisSpec, stream
from cxr_mm.imaging.geometry import CUBIC, resize

Plane = NDArray[np.floating[Any]]
"""float32 (H, W)."""
SHAPES = {"A": (1.0, 1.0), "B": (1.0, 0.88), "C": (0.86, 1.0)}
"""Height and width of each site's images, in long sides."""
VESSELS = 30


@dataclass(frozen=True)
class Body:
    """Everything that shapes a thorax on one image; lengths in thorax half-widths."""

    zoom: float
    centre: tuple[float, float]
    roll: float
    turn: float
    apex: float
    domes: tuple[float, float]
    dome_depth: float
    lung_width: float
    taper: float
    heart: tuple[float, float]
    knob: float
    ribs: int
    rib_phase: float
    rib_slope: float
    rib_density: float
    clavicle: float
    scapula: float
    fat: float
    breast: float
    breast_at: tuple[float, float]
    air_bubble: float


@dataclass(frozen=True)
class Thorax:
    """A thorax drawn: attenuation and fields, each (H, W), and coordinates for what is added.

    `lungs` say how much air each lung, right and left, has in the beam; `fields` reach down
    into the costophrenic recesses, where fluid gathers.
    """

    body: Body
    x: Plane
    y: Plane
    attenuation: Plane
    lungs: tuple[Plane, Plane]
    fields: tuple[Plane, Plane]


def draw_body(spec: SynthesisSpec, case: Case) -> Body:
    """Draw the patient's anatomy from the patient's stream, the positioning from the study's."""
    anatomy = stream(spec, Part.BODY, case.patient.index)
    p = anatomy.uniform(-1, 1, 14).tolist()
    image = stream(spec, Part.IMAGE, case.index)
    s = image.standard_normal(8).clip(-2.2, 2.2).tolist()
    patient, supine = case.patient, case.illness.view == "AP"
    breath = 0.5 * s[0] - (0.6 if supine else 0.0)
    failing = 0.07 * patient.heart_failure + 0.05 * case.illness.congestion
    raised = 0.20 * image.random() * (image.random() < 0.10), float(image.random() < 0.6)
    domes = (0.50 + 0.06 * breath + 0.03 * p[0], 0.56 + 0.06 * breath + 0.03 * p[1])
    lifted = (domes[0] - raised[0] * raised[1], domes[1] - raised[0] * (1 - raised[1]))
    return Body(
        zoom=1.0 + 0.04 * s[1] - 0.02 * patient.habitus,
        centre=(0.03 * s[2], 0.03 * s[3]),
        roll=0.030 * s[4] * (1.6 if supine else 1.0),
        turn=0.035 * s[5] * (1.6 if supine else 1.0),
        apex=-0.86 + 0.04 * p[2] - 0.02 * breath,
        domes=lifted,
        dome_depth=0.24 + 0.05 * p[3],
        lung_width=0.92 + 0.02 * p[4],
        taper=2.3 + 0.4 * p[5],
        heart=(0.36 + 0.04 * p[6] + failing + 0.05 * supine, 0.33 + 0.03 * p[7]),
        knob=0.085 + 0.02 * p[8] + 0.0006 * (patient.age - 60),
        ribs=9 + int(p[9] > 0.5),
        rib_phase=0.5 * p[10],
        rib_slope=0.30 + 0.06 * p[11] + 0.03 * breath,
        rib_density=0.105 + 0.02 * p[12] - 0.0006 * (patient.age - 60),
        clavicle=-0.62 + 0.05 * s[6] - 0.05 * supine,
        scapula=(0.10 if supine else 0.03) + 0.02 * abs(s[7]),
        fat=0.06 * patient.habitus,
        breast=0.0 if patient.male else 0.09 + 0.05 * p[13] + 0.03 * patient.habitus,
        breast_at=(0.52 + 0.05 * p[4], 0.34 + 0.08 * p[13]),
        air_bubble=0.20 * image.random(),
    )


def image_shape(spec: SynthesisSpec, site: str) -> tuple[int, int]:
    """Height and width in pixels of an image of this site."""
    height, width = SHAPES[site]
    return round(spec.size * height), round(spec.size * width)


def on_grid(plane: Plane, shape: tuple[int, int]) -> Plane:
    """Interpolate a plane on another grid, bicubic."""
    return resize(np.asarray(plane, dtype=np.float32), shape, CUBIC)


def ramp(value: Plane, width: float) -> Plane:
    """A soft step: 0 well below zero, 1 well above, linear over `width`."""
    soft: Plane = np.clip(value / width + 0.5, 0, 1)
    return soft


def draw_thorax(body: Body, shape: tuple[int, int], rng: np.random.Generator) -> Thorax:
    """Attenuation of the whole thorax, without any finding, image effect or noise."""
    x, y = _coordinates(body, shape)
    out = np.abs(x)
    heart = _heart(body, x, y)
    masks = [
        _lung(body, side * x, y, dome) for side, dome in ((-1, body.domes[0]), (1, body.domes[1]))
    ]
    lungs = [lung * (1 - 0.85 * heart) for lung, _ in masks]
    air = lungs[0] + lungs[1]
    torso = _torso(body, out, y)
    attenuation = torso * (0.74 + body.fat + 0.14 * np.sqrt(np.clip(1 - (x / 1.25) ** 2, 0, 1)))
    attenuation -= air * (0.52 + 0.06 * (1 - out) - 0.9 * body.turn * x)
    attenuation += 0.12 * (1 - air) * ramp(y - min(body.domes) - 0.1, 0.5) * torso
    attenuation += 0.10 * heart * air + _midline(body, x, y)
    attenuation += (_ribs(body, out, y) * (0.35 + 0.65 * air) + _shoulders(body, out, y)) * torso
    attenuation += _breasts(body, out, y) + _vessels(body, shape, rng) * air
    bubble = ((x - 0.42) / 0.20) ** 2 + ((y - body.domes[1] - 0.20) / 0.10) ** 2
    attenuation -= body.air_bubble * ramp(1 - bubble, 0.7) * (1 - air)
    return Thorax(body, x, y, attenuation, (lungs[0], lungs[1]), (masks[0][1], masks[1][1]))


def _coordinates(body: Body, shape: tuple[int, int]) -> tuple[Plane, Plane]:
    height, width = shape
    unit = _unit(body, shape)
    rows = (np.arange(height, dtype=np.float32) - height / 2) / unit - body.centre[1]
    columns = (np.arange(width, dtype=np.float32) - width / 2) / unit - body.centre[0]
    sin, cos = math.sin(body.roll), math.cos(body.roll)
    return columns * cos + rows[:, None] * sin, rows[:, None] * cos - columns * sin


def _unit(body: Body, shape: tuple[int, ...]) -> float:
    """Half-width of the thorax in pixels."""
    return body.zoom * min(0.46 * shape[1], 0.49 * shape[0])


def _lung(body: Body, x: Plane, y: Plane, dome: float) -> tuple[Plane, Plane]:
    """Soft mask of one lung, x outwards from the midline, and of its whole pleural field."""
    down = (y - body.apex) / (dome + 0.3 - body.apex)
    rising = np.clip(down / 0.72, 0, 1)
    wall = body.lung_width * (1 - (1 - rising) ** body.taper) ** (1 / body.taper)
    inner = 0.10 + 0.07 * np.clip(1 - 2 * np.abs(down - 0.15), 0, 1)
    floor = dome + body.dome_depth * ((x - 0.40) / 0.5) ** 2
    side = ramp(wall - x, 0.05) * ramp(x - inner, 0.06) * ramp(y - body.apex, 0.05)
    return side * ramp(floor - y, 0.03), side * ramp(floor + 0.05 - y, 0.03)


def _torso(body: Body, out: Plane, y: Plane) -> Plane:
    shoulder = -1.16 + 0.40 * np.clip((out - 0.26) / 1.0, 0, 1) ** 0.8
    armpit = np.clip((0.1 - y) / 0.6, 0, 1)
    wall = 1.07 + 0.8 * body.fat + 0.5 * armpit**2 * (3 - 2 * armpit)
    return ramp(y - shoulder, 0.14) * ramp(wall - out, 0.08)


def _midline(body: Body, x: Plane, y: Plane) -> Plane:
    """Spine with its discs, great vessels, aortic knob, hila and the dark band of the trachea."""
    middle, out = x - body.turn, np.abs(x)
    discs = 1 + 0.12 * np.cos(y * 2 * np.pi * 6.5)
    spine = 0.15 * np.exp(-((x / 0.11) ** 2)) * discs
    column = 0.13 * ramp(0.17 - np.abs(middle), 0.10)
    trachea = 0.13 * ramp(0.05 - np.abs(middle), 0.04) * ramp(-0.25 - y, 0.1)
    knob = 0.11 * ramp(body.knob - np.hypot(middle - 0.16, y + 0.32), 0.05)
    hila = 0.12 * np.exp(-(((out - 0.22) / 0.11) ** 2) - ((y - 0.02) / 0.16) ** 2)
    shadow: Plane = spine + column + knob + hila - trachea
    return shadow


def _heart(body: Body, x: Plane, y: Plane) -> Plane:
    """Soft silhouette: the heart resting on the left dome, and the trunk that leads up from it."""
    across, along = body.heart
    dx, dy = x - (0.15 + body.turn), y - (body.domes[1] - 0.18)
    turned = dx * 0.92 + dy * 0.38, dy * 0.92 - dx * 0.38
    heart = np.hypot(turned[0] / across, turned[1] / along)
    trunk = np.hypot((dx + 0.04) / 0.19, (dy + 0.38) / 0.36)
    silhouette: Plane = np.maximum(ramp(1 - heart, 0.12), ramp(1 - trunk, 0.3))
    return silhouette


def _ribs(body: Body, out: Plane, y: Plane) -> Plane:
    """Posterior ribs sloping gently down and outwards, anterior ones steeply down and inwards."""
    spacing = 1.65 / body.ribs
    cage = ramp(body.lung_width + 0.06 - out, 0.06) * ramp(out - 0.10, 0.06)
    posterior = (y - body.rib_slope * out**1.6 + 0.25 * np.sqrt(out)) / spacing + body.rib_phase
    anterior = (y + 0.62 * out**1.5) / (spacing * 1.12) + body.rib_phase
    near = ramp(y + 0.75, 0.2) * ramp(0.75 - y, 0.25) * ramp(out - 0.28, 0.2)
    return cage * body.rib_density * (_bars(posterior) + 0.55 * near * _bars(anterior))


def _bars(phase: Plane) -> Plane:
    """A row of bars, one per unit, with denser edges (cortex) than middles."""
    wave = np.cos(phase * 2 * np.pi)
    bar: Plane = np.clip(1.6 * wave + 0.55, 0, 1) - 0.35 * np.clip(1.8 * wave - 0.7, 0, 1)
    return bar


def _shoulders(body: Body, out: Plane, y: Plane) -> Plane:
    line = y - body.clavicle + 0.20 * (out - 0.15)
    inside = ramp(out - 0.10, 0.05) * ramp(1.15 - out, 0.1)
    clavicle = 0.17 * inside * np.exp(-((line / 0.040) ** 2))
    edge = out - 0.74 - 0.20 * (y + 0.3)
    scapula = body.scapula * ramp(edge, 0.06) * ramp(-0.02 - y, 0.3)
    return clavicle + scapula


def _breasts(body: Body, out: Plane, y: Plane) -> Plane:
    if not body.breast:
        return np.zeros_like(y)
    at, low = body.breast_at
    round_ = ((out - at) / 0.38) ** 2 + ((y - low) / 0.34) ** 2
    weight: Plane = np.clip(0.7 + 0.6 * (y - low), 0.2, 1.1)
    return body.breast * weight * ramp(1 - round_, 0.35)


def _vessels(body: Body, shape: tuple[int, int], rng: np.random.Generator) -> Plane:
    """Branching lines that leave the hila and thin out, drawn on a canvas and softened."""
    height, width = shape
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    unit = _unit(body, shape)
    middle = width / 2 + body.centre[0] * unit, height / 2 + body.centre[1] * unit
    angles, lengths = rng.uniform(-1.4, 1.4, VESSELS), rng.uniform(0.2, 0.75, VESSELS)
    bends = rng.normal(0, 0.4, VESSELS)
    for k in range(VESSELS):
        at, angle, side = (0.22, 0.03), angles[k], -1 if k % 2 else 1
        for step in range(4):
            angle += bends[k] * (1 if step % 2 else -0.6)
            end = at[0] + lengths[k] / 4 * np.cos(angle), at[1] + lengths[k] / 4 * np.sin(angle)
            points = [(middle[0] + side * px * unit, middle[1] + py * unit) for px, py in (at, end)]
            draw.line(points, fill=230 - 50 * step, width=max(1, round((3 - step) * unit / 110)))
            at = end
    soft = canvas.filter(ImageFilter.GaussianBlur(unit / 110))
    return np.asarray(soft, dtype=np.float32) * (0.13 / 255)


SEEN = 0.30
"""Share of a lesion's peak from which a pixel belongs to its mask."""
MAX_CONSOLIDATION = 0.40
FLUID = 1.0
"""Attenuation of a hemithorax full of fluid."""


def texture(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Plane:
    """Smooth noise of unit variance or so, with `cells` grains along the height."""
    coarse = rng.standard_normal((cells, max(2, round(cells * shape[1] / shape[0]))))
    return on_grid(coarse, shape)


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
    """Mimics of findings: linear atelectasis, basal haze, scars, blunted angles, a wet hilum."""
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
    """Mask of a lesion: at least `SEEN` of its peak; never empty if anything was added."""
    within = np.where(inside > 0.5, added, 0)
    peak = float(within.max())
    if peak <= 0:
        return np.zeros(added.shape, dtype=np.bool_)
    return np.asarray(within >= SEEN * peak)
