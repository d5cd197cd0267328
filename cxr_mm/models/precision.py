"""Precision: fp32 or bf16 autocast, whichever this machine runs faster; channels last in both.

Processors with bf16 matrix units (AMX) run most networks two to three times as fast in bf16, others
slower; depthwise networks differ between inference and training. So it is measured, not guessed.
"""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

PrecisionName = Literal["fp32", "bf16"]
WantedPrecision = Literal["auto", "fp32", "bf16"]
MEASURED_ON = 8
"""Images on which the choice is measured."""
NAMES: tuple[PrecisionName, ...] = ("fp32", "bf16")
WORTHWHILE = 1.15
"""bf16 has to be this much faster, so that chance does not change the numbers from run to run."""
RUNS, SECONDS = 4, 0.6


@dataclass(frozen=True)
class Precision:
    """How a network is run.

    Args:
        name: `fp32`, or `bf16` (autocast; weights stay float32).
        images_per_second: what was measured of each; empty where it was given, not measured.
    """

    name: PrecisionName
    images_per_second: Mapping[str, float] = field(default_factory=dict)

    @property
    def memory_format(self) -> torch.memory_format:
        """Order of image tensors and convolution weights: faster in this one on processors."""
        return torch.channels_last

    def autocast(self, device: str = "cpu") -> AbstractContextManager[object]:
        """Context to run the network in; nothing changes for fp32."""
        return torch.autocast(device, torch.bfloat16, enabled=self.name == "bf16")

    def arrange(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S) in the memory order that is fastest."""
        return images.contiguous(memory_format=self.memory_format)


def choose_precision(
    model: nn.Module,
    sample: Tensor,
    *,
    wanted: WantedPrecision = "auto",
    training: bool = False,
) -> Precision:
    """Measure both on a real batch and take the faster; the model itself is left as it is.

    Args:
        model: takes `sample`; gives a tensor.
        sample: images (B, 1, S, S) on the model's device; eight are enough.
        wanted: `fp32` or `bf16` to be told instead of measuring.
        training: measure forward and backward rather than forward alone.
    """
    if wanted != "auto":
        return Precision(wanted)
    trial = copy.deepcopy(model).train(training)
    step = _training_step if training else _inference_step
    with torch.random.fork_rng(devices=[]):
        seconds: dict[str, float] = {
            name: _fastest(step, trial, sample, Precision(name)) for name in NAMES
        }
    speed = {name: len(sample) / taken for name, taken in seconds.items()}
    faster = speed["bf16"] > WORTHWHILE * speed["fp32"]
    return Precision("bf16" if faster else "fp32", speed)


def _fastest(
    step: Callable[[nn.Module, Tensor, Precision], None],
    model: nn.Module,
    sample: Tensor,
    precision: Precision,
) -> float:
    """Seconds of the best of a few runs, after one that warms up."""
    model = model.to(memory_format=precision.memory_format)  # type: ignore[call-overload]
    images, taken = precision.arrange(sample), [float("inf")]
    step(model, images, precision)
    started = time.perf_counter()
    while len(taken) <= RUNS and time.perf_counter() - started < SECONDS:
        _wait_for(sample.device)
        start = time.perf_counter()
        step(model, images, precision)
        _wait_for(sample.device)
        taken.append(time.perf_counter() - start)
    return min(taken)


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
