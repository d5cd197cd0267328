"""Part `precision`: images per second of the default backbone, each as a ratio in one run.

Against fp32 in the order channels first, which is what a network does when nobody chooses.
"""

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.rows import Row
from cxr_mm.models.image_encoder import build_image_encoder

COMMAND = "make benchmark PART=precision"
BACKBONE, SIZE, BATCH, REPEATS = "tf_efficientnet_lite0", 224, 16, 7
CHOICES = {
    "fp32, channels first": (torch.contiguous_format, False),
    "fp32, channels last": (torch.channels_last, False),
    "bf16, channels last": (torch.channels_last, True),
}


def measure() -> list[Row]:
    """Inference speed of each choice, rounds interleaved so that noise meets all alike."""
    steps = {name: _step(*choice) for name, choice in CHOICES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds["fp32, channels first"])
    return [
        Row(
            table="precision",
            task=BACKBONE,
            row=name,
            metric="speed against fp32, channels first",
            value=base / statistics.median(taken),
            n=REPEATS,
            seconds=statistics.median(taken),
            command=COMMAND,
        )
        for name, taken in seconds.items()
    ]


def _step(order: torch.memory_format, bf16: bool) -> Callable[[], None]:
    encoder = build_image_encoder(BACKBONE, SIZE, 1, 0.0, "packaged").eval()
    encoder.to(memory_format=order)  # type: ignore[call-overload]
    images = torch.zeros(BATCH, 1, SIZE, SIZE).contiguous(memory_format=order)

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            encoder(images)

    step()
    return step
