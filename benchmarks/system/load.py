"""Part `load`: the page's server under many users at once, each with a study of their own."""

import json
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import numpy as np

from app.ui import study_form
from benchmarks.harness.outputs import has_run, paths_of
from benchmarks.harness.parts import Row
from cxr_mm.core.errors import StageError
from cxr_mm.core.task import load_task

TASK, USERS, PORT = "synthetic", 20, 7894
UNLIMITED = "--requests-per-minute", "1000000", "--uploads-per-minute", "100000"
LIMED = 1
"""Users who ask for LIME of their image all the while; the others for predictions."""
WARM_SECONDS = 60.0
"""After which memory is first read."""
PATIENCE = 120.0
"""Seconds for which a user waits for an answer."""


@dataclass(frozen=True)
class Way:
    """A way to serve the page.

    Args:
        seconds: for which it is under load.
        words: on its command line.
        environment: variables of its own.
        processes: of the page; a user stays with one, as behind a proxy.
    """

    seconds: float
    words: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1


ALONE, TOGETHER, TWO = "one by one", "together", "together, two processes"
WAYS = {
    # Threads of a forward pass spin while they wait for one another, as they do by default.
    ALONE: Way(75, ("--max-batch", "1"), {"OMP_WAIT_POLICY": "active"}),
    TOGETHER: Way(150),
    TWO: Way(75, ("--processes", "2"), processes=2),
}
FASTER, SLOWEST, GROWTH = 1.5, 2.5, 1.1
"""Predictions a second against `one by one`; seconds of the 95th percentile; memory in the end
against that after a minute."""


@dataclass
class Seen:
    """What the users saw."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wrong: int = 0
    explained: int = 0
    lasted: float = 0.0
    """Seconds until the last prediction."""
    memory: tuple[int, int] = (0, 0)
    """After a minute, or as long as it lasted, and in the end (kB)."""


class User:
    """A user of the page, who asks as its script does: an upload, a request, an endless answer.

    Gradio's own client takes as much processor time for it as the server does.
    """

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}/gradio_api", timeout=PATIENCE
        )

    def ask(self, name: str, image: Path | None, *rest: Any) -> dict[str, Any]:
        """Call the page by name.

        Raises:
            httpx.HTTPError: the server refused it.
            RuntimeError: it has no answer.
        """
        file = None
        if image is not None:
            with image.open("rb") as stream:
                paths = self._posted("/upload", files={"files": (image.name, stream)})
            file = {"path": paths[0], "meta": {"_type": "gradio.FileData"}}
        event = self._posted(f"/call/{name}", json={"data": [file, *rest]})["event_id"]
        text = self._client.get(f"/call/{name}/{event}").text
        kind, _, data = text.rstrip().rpartition("\n")
        if not kind.endswith("event: complete"):
            raise RuntimeError(text)
        answer: dict[str, Any] = json.loads(data.removeprefix("data: "))[0]
        return answer

    def _posted(self, path: str, **content: Any) -> Any:
        return self._client.post(path, **content).raise_for_status().json()


Study = tuple[Path | None, dict[str, Any], str, str, str]
"""Image, clinical features, note, view and id."""


def measure() -> list[Row]:
    """Rows of errors, wrong pairings, latency and memory, by each way.

    Raises:
        StageError: there is no bundle yet.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)
    found: dict[str, Seen] = {}
    with tempfile.TemporaryDirectory() as name:
        studies = _studies(Path(name))
        for number, (title, way) in enumerate(WAYS.items()):
            words = "--log", f"sqlite:///{name}/{number}.db", *UNLIMITED, *way.words
            with served(TASK, PORT, *words, environment=way.environment) as server:
                for port in range(PORT + 1, PORT + way.processes):
                    _await(f"http://127.0.0.1:{port}/healthz", server)
                found[title] = _load(server.pid, studies, way)
            for error in sorted(set(found[title].errors)):
                print(f"load: {title}: {error}")
    return _rows(found)


def _studies(folder: Path) -> list[Study]:
    """What each user hands in: image, clinical features and note of their own."""
    task = load_task(TASK)
    rows = study_form.read(study_form.phantoms(folder / "images", 3 * USERS), task, USERS)
    return [
        (
            Path(image) if image else None,
            {n: v for n, v in zip(task.clinical_names, clinical, strict=True) if v},
            note,
            "",
            f"user-{number}",
        )
        for number, (image, note, *clinical) in enumerate(rows)
    ]


def _load(pid: int, studies: Sequence[Study], way: Way) -> Seen:
    """All users at once."""
    users = [User(PORT + number % way.processes) for number, _ in enumerate(studies)]
    expected = [user.ask("predict", *study, "") for user, study in zip(users, studies, strict=True)]
    seen, started = Seen(), time.monotonic()
    threads = [
        threading.Thread(target=_use, args=(seen, started + way.seconds, *each, number < LIMED))
        for number, each in enumerate(zip(users, studies, expected, strict=True))
    ]
    for thread in threads:
        thread.start()
    time.sleep(min(WARM_SECONDS, way.seconds))
    early = _memory(pid)
    for thread in threads[LIMED:]:
        thread.join()
    seen.lasted = time.monotonic() - started
    for thread in threads[:LIMED]:
        thread.join()
    seen.memory = early, _memory(pid)
    return seen


def _use(
    seen: Seen, until: float, user: User, study: Study, expected: dict[str, Any], limed: bool
) -> None:
    """One user, again and again until the time is over."""
    while time.monotonic() < until:
        started = time.monotonic()
        try:
            if limed:
                result = user.ask("explain", *study, [], ["lime_image"])["prediction"]
                seen.explained += 1
            else:
                result = user.ask("predict", *study, "")
                seen.seconds.append(time.monotonic() - started)
        except Exception as error:  # noqa: BLE001  whatever a user would see
            seen.errors.append(repr(error))
            continue
        seen.wrong += not _same(result, expected)


def _same(answered: dict[str, Any], expected: dict[str, Any]) -> bool:
    ours, theirs = ([f["probability"] for f in each["findings"]] for each in (answered, expected))
    return answered["study_id"] == expected["study_id"] and np.allclose(ours, theirs, atol=1e-4)


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _memory(pid: int) -> int:
    """Memory of the server and its decoders (kB); of what processes share, each has its part."""
    texts = [Path(f"/proc/{each}/smaps_rollup").read_text() for each in _family(pid)]
    return sum(int(kilobytes) for t in texts for kilobytes in re.findall(r"\nPss:\s+(\d+)", t))


def _rows(found: Mapping[str, Seen]) -> list[Row]:
    none = {"must": 0, "ceiling": True}
    alone = _rate(found[ALONE])
    rows = []
    for title, seen in found.items():
        n, (early, late) = len(seen.seconds), seen.memory
        bound = {} if title == ALONE else {"must": SLOWEST, "ceiling": True}
        figures: list[tuple[str, float, dict[str, Any]]] = [
            ("errors", len(seen.errors), none),
            ("answers of another study", seen.wrong, none),
            ("prediction, median seconds", statistics.median(seen.seconds), {}),
            (
                "prediction, 95th percentile, seconds",
                float(np.quantile(seen.seconds, 0.95)),
                bound,
            ),
            ("predictions a second", _rate(seen), {}),
            ("explanations by LIME beside them", seen.explained, {}),
            ("memory in the end, MiB", late / 1024, {}),
        ]
        if title != ALONE:
            faster = _rate(seen) / alone
            figures.append((f"predictions a second against {ALONE}", faster, {"must": FASTER}))
        if seen.lasted > 2 * WARM_SECONDS:
            growth = late / early
            metric = "memory at the end against after a minute"
            figures.append((metric, growth, {"must": GROWTH, "ceiling": True}))
        row = f"{title}: {USERS} users, {seen.lasted:.0f} seconds"
        rows += [
            Row(task=TASK, row=row, metric=metric, value=round(value, 4), n=n, **bounds)
            for metric, value, bounds in figures
        ]
    return rows


def _rate(seen: Seen) -> float:
    return len(seen.seconds) / seen.lasted


STARTS, STOPS = 120.0, 30.0
"""Seconds that a start and an end may take."""


@contextmanager
def served(
    task: str, port: int, *words: str, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator["subprocess.Popen[bytes]"]:
    """Serve the bundle of a task, with further words on the command line and further variables.

    Raises:
        StageError: there is no bundle yet.
        OSError: the server does not answer.
    """
    paths = paths_of(task)
    if not has_run("fuse", paths):
        raise StageError("no such folder", field=str(paths.bundle), remedy="Run dvc repro")
    command = ["-m", "app", "--bundle", str(paths.bundle.resolve()), "--port", str(port), *words]
    server = subprocess.Popen([sys.executable, *command], env={**os.environ, **environment})
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
