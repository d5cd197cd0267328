"""Rounds: several ways to do one thing, timed in turn, so that noise meets all alike."""

import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cxr_mm.core.errors import StageError
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


STARTS, STOPS = 120.0, 30.0
"""Seconds that a start and an end may take."""


@contextmanager
def served(bundle: Path, port: int, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The server of a bundle on loopback.

    Raises:
        StageError: there is no bundle yet.
        OSError: the server does not answer.
    """
    if not bundle.is_dir():
        raise StageError("no such folder", field=str(bundle), remedy="Run dvc repro")
    command = ["-m", "app", "--bundle", str(bundle.resolve()), "--port", str(port), *words]
    server = subprocess.Popen([sys.executable, *command])
    try:
        _await(f"http://127.0.0.1:{port}/healthz", server)
        yield server
    finally:
        server.terminate()
        server.wait(STOPS)


def _await(url: str, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + STARTS
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            if time.monotonic() > until or server.poll() is not None:
                raise
            time.sleep(0.5)
