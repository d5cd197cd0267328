"""Timing: several ways to do one thing, in turn, so that noise from outside meets all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cxr_mm.models.image_encoder import ImageEncoder
from cxr_mm.models.precision import Precision

Seconds = dict[str, list[float]]


def in_turn(ways: Mapping[str, Callable[[], object]], repeats: int) -> Seconds:
    """Seconds of each way in each round; one round before them warms up and does not count."""
    taken: Seconds = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number:
                taken[name].append(time.perf_counter() - started)
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of one way's seconds as a multiple of another's."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def device() -> str:
    """What the rounds ran on."""
    return f"cpu, {torch.get_num_threads()} threads"


def network_forward(
    network: nn.Module, batches: Sequence[Tensor], precision: Precision
) -> Callable[[], None]:
    """A function that runs every batch through the network once."""
    network.eval().to(memory_format=precision.memory_format)  # type: ignore[call-overload]
    arranged = [precision.arrange(batch) for batch in batches]

    def run() -> None:
        with torch.inference_mode(), precision.autocast():
            for images in arranged:
                network(images)

    return run


def network_training(
    encoder: ImageEncoder, batches: Sequence[Tensor], precision: Precision
) -> Callable[[], None]:
    """A function that runs every batch forward to a loss and backward; no weight changes."""
    encoder.train().to(memory_format=precision.memory_format)  # type: ignore[call-overload]
    arranged = [precision.arrange(batch) for batch in batches]
    labels = torch.zeros(len(batches[0]), encoder.spec.outputs)

    def run() -> None:
        for images in arranged:
            encoder.zero_grad()
            with precision.autocast():
                logits = encoder.logits(encoder(images))
                loss = binary_cross_entropy_with_logits(logits.float(), labels)
            torch.autograd.backward(loss)

    return run


def random_batches(count: int, batch: int, size: int) -> list[Tensor]:
    """Images (batch, 1, size, size) in [-1, 1], the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(batch, 1, size, size, generator=generator) * 2 - 1 for _ in range(count)]
