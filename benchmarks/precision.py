"""Part `precision`: the automatic choice of precision and memory order against plain fp32.

Plain is fp32 with channels first, which is what a network does when nobody chooses.
"""

import copy
from collections.abc import Callable

from benchmarks.bare import bare_forward, bare_training, random_batches
from benchmarks.rounds import device, in_turn, ratio
from benchmarks.rows import Row
from cxr_mm.models.image_encoder import ImageEncoder, build_image_encoder
from cxr_mm.models.precision import CANDIDATES, MEASURED_ON, PLAIN, Precision, choose_precision

COMMAND = "make benchmark PART=precision"
BACKBONES = {"tf_efficientnet_lite0": "packaged", "small_cnn": "none", "resnet18": "none"}
SIZE, BATCH, ROUNDS = 224, 16, 7
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
    ways = {
        "plain": _way(encoder, CANDIDATES[PLAIN], training),
        "auto": _way(encoder, chosen, training),
    }
    taken = in_turn(ways, ROUNDS)
    order = "last" if chosen.channels_last else "first"
    return Row(
        table="precision",
        task=encoder.spec.backbone,
        row=f"{'training' if training else 'inference'}: {chosen.name}, channels {order}",
        metric="speed against plain fp32",
        value=ratio(taken["plain"], taken["auto"]),
        must=NEVER_SLOWER,
        n=ROUNDS * BATCH,
        seconds=sum(map(sum, taken.values())),
        device=device(),
        command=COMMAND,
    )


def _way(encoder: ImageEncoder, precision: Precision, training: bool) -> Callable[[], None]:
    own, batches = copy.deepcopy(encoder), random_batches(1, BATCH, SIZE)
    return (bare_training if training else bare_forward)(own, batches, precision)
