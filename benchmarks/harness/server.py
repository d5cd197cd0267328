"""Server: the page of a bundle, started on loopback for as long as something is measured."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.harness.outputs import has_run, paths_of
from cxr_mm.core.errors import StageError

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
