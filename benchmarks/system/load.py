"""Part `load`: the page's server under many users at once, each with a study of their own."""

import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gradio_client import Client, handle_file

from app.ui import study_form
from benchmarks.harness.outputs import has_run, paths_of
from benchmarks.harness.parts import Row
from cxr_mm.core.errors import StageError
from cxr_mm.core.task import load_task

TASK, USERS, MINUTES, PORT = "synthetic", 20, 5.0, 7894
UNLIMITED = "--requests-per-minute", "1000000", "--uploads-per-minute", "100000"
LIMED = 1
"""Users who ask for LIME of their image all the while; the others for predictions."""
WARM_SECONDS = 60.0
"""After which memory is first read."""


@dataclass
class Seen:
    """What the users saw."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wrong: int = 0
    explained: int = 0


def measure() -> list[Row]:
    """Rows of errors, wrong pairings, latency and memory.

    Raises:
        StageError: there is no bundle yet.
    """
    with tempfile.TemporaryDirectory() as name:
        words = "--log", f"sqlite:///{name}/log.db", *UNLIMITED
        with served(TASK, PORT, *words) as server:
            seen, early, late = _load(server.pid, _studies(Path(name)))
    return _rows(seen, early, late)


def _studies(folder: Path) -> list[dict[str, Any]]:
    """What each user hands in: image, clinical features and note of their own."""
    task = load_task(TASK)
    rows = study_form.read(study_form.phantoms(folder / "images", 3 * USERS), task, USERS)
    return [
        {
            "image": handle_file(image) if image else None,
            "clinical": {n: v for n, v in zip(task.clinical_names, clinical, strict=True) if v},
            "note": note,
            "view": "",
            "study_id": f"user-{number}",
        }
        for number, (image, note, *clinical) in enumerate(rows)
    ]


def _load(pid: int, studies: list[dict[str, Any]]) -> tuple[Seen, int, int]:
    """All users at once; memory (kB) after a minute and in the end."""
    clients = [Client(f"http://127.0.0.1:{PORT}/", verbose=False) for _ in studies]
    expected = [c.predict(**s, api_name="/predict") for c, s in zip(clients, studies, strict=True)]
    seen, until = Seen(), time.monotonic() + 60 * MINUTES
    users = [
        threading.Thread(target=_use, args=(seen, until, *each, number < LIMED))
        for number, each in enumerate(zip(clients, studies, expected, strict=True))
    ]
    for user in users:
        user.start()
    time.sleep(WARM_SECONDS)
    early = _memory(pid)
    for user in users:
        user.join()
    return seen, early, _memory(pid)


def _use(
    seen: Seen,
    until: float,
    client: Client,
    study: dict[str, Any],
    expected: dict[str, Any],
    limed: bool,
) -> None:
    """One user, again and again until the time is over."""
    while time.monotonic() < until:
        started = time.monotonic()
        try:
            if limed:
                ask = {**study, "findings": [], "methods": ["lime_image"]}
                result = client.predict(**ask, api_name="/explain")["prediction"]
                seen.explained += 1
            else:
                result = client.predict(**study, api_name="/predict")
                seen.seconds.append(time.monotonic() - started)
        except Exception as error:  # noqa: BLE001  whatever a user would see
            seen.errors.append(repr(error))
            continue
        seen.wrong += not _same(result, expected)


def _same(answered: dict[str, Any], expected: dict[str, Any]) -> bool:
    ours, theirs = ([f["probability"] for f in each["findings"]] for each in (answered, expected))
    return answered["study_id"] == expected["study_id"] and np.allclose(ours, theirs, atol=1e-4)


def _memory(pid: int) -> int:
    """Resident memory of the server and of its decoders (kB)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    statuses = [Path(f"/proc/{each}/status").read_text() for each in (pid, *children)]
    return sum(int(kilobytes) for s in statuses for kilobytes in re.findall(r"VmRSS:\s+(\d+)", s))


def _rows(seen: Seen, early: int, late: int) -> list[Row]:
    n = len(seen.seconds)
    none = {"must": 0, "ceiling": True}
    figures: list[tuple[str, float, dict[str, Any]]] = [
        ("errors", len(seen.errors), none),
        ("answers of another study", seen.wrong, none),
        ("prediction, median seconds", statistics.median(seen.seconds), {}),
        ("prediction, 95th percentile, seconds", float(np.quantile(seen.seconds, 0.95)), {}),
        ("predictions a second", n / (60 * MINUTES), {}),
        ("explanations by LIME beside them", seen.explained, {}),
        ("memory at the end against after a minute", late / early, {"must": 1.1, "ceiling": True}),
    ]
    for error in sorted(set(seen.errors)):
        print(f"load: {error}")
    facts = {"task": TASK, "row": f"{USERS} users, {MINUTES:g} minutes", "n": n}
    return [
        Row(metric=metric, value=round(value, 4), **facts, **targets)
        for metric, value, targets in figures
    ]


STARTS, STOPS = 120.0, 30.0
"""Seconds that a start and an end may take."""


@contextmanager
def served(task: str, port: int, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Serve the bundle of a task, with further words on the command line.

    Raises:
        StageError: there is no bundle yet.
        OSError: the server does not answer.
    """
    paths = paths_of(task)
    if not has_run("fuse", paths):
        raise StageError("no such folder", field=str(paths.bundle), remedy="Run dvc repro")
    command = ["-m", "app", "--bundle", str(paths.bundle.resolve()), "--port", str(port), *words]
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
