"""Precision: fp32 or bf16 autocast and the memory order of images, by measured speed.

Processors with bf16 matrix units (AMX) run most networks two to three times as fast in bf16, others
slower; depthwise networks differ between inference and training; channels last is faster on most
processors. The choice is therefore measured.
"""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

PrecisionName = Literal["fp32", "bf16"]
WantedPrecision = Literal["auto", "fp32", "bf16"]
MEASURED_ON = 8
"""Images on which the speed is measured."""
WORTHWHILE = 1.15
"""Least speed-up for bf16, so that noise does not change the numbers from run to run."""
ORDER_WORTHWHILE = 1.03
"""Least speed-up for channels first, which changes numbers in the last bits alone."""
RUNS, SECONDS = 4, 2.0


@dataclass(frozen=True)
class Precision:
    """How a network is run.

    Args:
        name: `fp32`, or `bf16` (autocast; weights stay float32).
        channels_last: order of image tensors and convolution weights.
        images_per_second: measured speed of each candidate; empty where nothing was measured.
    """

    name: PrecisionName
    channels_last: bool = True
    images_per_second: Mapping[str, float] = field(default_factory=dict)

    @property
    def memory_format(self) -> torch.memory_format:
        """Order of image tensors and convolution weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: str = "cpu") -> AbstractContextManager[object]:
        """Context to run the network in; nothing changes for fp32."""
        return torch.autocast(device, torch.bfloat16, enabled=self.name == "bf16")

    def arrange(self, images: Tensor) -> Tensor:
        """Put images (B, C, S, S) into this memory order."""
        return images.contiguous(memory_format=self.memory_format)


SERVED = Precision("fp32")
"""How a bundle is run and embeddings are made: not measured, so that answers do not vary."""
PLAIN = "fp32, channels first"
CANDIDATES = {
    "fp32": Precision("fp32"),
    PLAIN: Precision("fp32", channels_last=False),
    "bf16": Precision("bf16"),
}


def choose_precision(
    model: nn.Module,
    sample: Tensor,
    *,
    wanted: WantedPrecision = "auto",
    training: bool = False,
) -> Precision:
    """Measure the candidates on a real batch and take the fastest; the model stays as it is.

    Args:
        model: takes `sample`; gives a tensor.
        sample: images (B, 1, S, S) on the model's device; eight are enough.
        wanted: `fp32` or `bf16` to take without measuring.
        training: measure forward and backward rather than forward alone.
    """
    if wanted != "auto":
        return Precision(wanted)
    trial = copy.deepcopy(model).train(training)
    step = _training_step if training else _inference_step
    with torch.random.fork_rng(devices=[]):
        seconds = _fastest(step, trial, sample)
    speed = {name: len(sample) / taken for name, taken in seconds.items()}
    best = "fp32" if ORDER_WORTHWHILE * speed["fp32"] >= speed[PLAIN] else PLAIN
    if speed["bf16"] > WORTHWHILE * speed[best]:
        best = "bf16"
    return replace(CANDIDATES[best], images_per_second=speed)


def _fastest(
    step: Callable[[nn.Module, Tensor, Precision], None], model: nn.Module, sample: Tensor
) -> dict[str, float]:
    """Shortest time in seconds of a few runs of each candidate, in turn, after a warm-up."""
    taken = dict.fromkeys(CANDIDATES, float("inf"))
    started = time.perf_counter()
    for run in range(RUNS + 1):
        for name, precision in CANDIDATES.items():
            model.to(memory_format=precision.memory_format)  # type: ignore[call-overload]
            images = precision.arrange(sample)
            _wait_for(sample.device)
            start = time.perf_counter()
            step(model, images, precision)
            _wait_for(sample.device)
            if run:
                taken[name] = min(taken[name], time.perf_counter() - start)
        if run and time.perf_counter() - started > SECONDS:
            break
    return taken


def _inference_step(model: nn.Module, images: Tensor, precision: Precision) -> None:
    with torch.inference_mode(), precision.autocast(images.device.type):
        model(images)


def _training_step(model: nn.Module, images: Tensor, precision: Precision) -> None:
    with precision.autocast(images.device.type):
        output = model(images)
    if output.requires_grad:
        output.float().square().mean().backward()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
