"""Served: the page's server as a user starts it, until it answers."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxr_mm.errors import StageError

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
