"""Part `precision`: what the automatic choice of precision and memory order brings."""

import copy
from collections.abc import Callable

from benchmarks.harness.parts import BACKBONES, Row
from benchmarks.harness.timing import (
    in_turn,
    network_forward,
    network_training,
    random_batches,
    ratio,
)
from cxr_mm.models.image_encoder import ImageEncoder, build_image_encoder
from cxr_mm.models.precision import CANDIDATES, MEASURED_ON, PLAIN, Precision, choose_precision

SIZE, BATCH, REPEATS = 224, 16, 7
NEVER_SLOWER = 0.95


def measure() -> list[Row]:
    """Speed of what is chosen for each backbone, in inference and in training."""
    rows = []
    for backbone, weights in BACKBONES.items():
        encoder = build_image_encoder(backbone, SIZE, 1, weights=weights)
        rows += [_row(encoder, training) for training in (False, True)]
    return rows


def _row(encoder: ImageEncoder, training: bool) -> Row:
    (sample,) = random_batches(1, MEASURED_ON, SIZE)
    chosen = choose_precision(encoder, sample, training=training)
    compared = {"plain": CANDIDATES[PLAIN], "auto": chosen}
    ways = {name: _way(encoder, precision, training) for name, precision in compared.items()}
    taken = in_turn(ways, REPEATS)
    order = "last" if chosen.channels_last else "first"
    return Row(
        task=encoder.spec.backbone,
        row=f"{'training' if training else 'inference'}: {chosen.name}, channels {order}",
        metric="speed against plain fp32",
        value=ratio(taken["plain"], taken["auto"]),
        must=NEVER_SLOWER,
        n=REPEATS * BATCH,
        seconds=sum(map(sum, taken.values())),
    )


def _way(encoder: ImageEncoder, precision: Precision, training: bool) -> Callable[[], None]:
    own, batches = copy.deepcopy(encoder), random_batches(1, BATCH, SIZE)
    return (network_training if training else network_forward)(own, batches, precision)
