"""Bare networks: forward, and forward with backward, on tensors that lie in memory."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cxr_mm.models.image_encoder import ImageEncoder
from cxr_mm.models.precision import Precision


def bare_forward(
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


def bare_training(
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
