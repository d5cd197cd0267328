"""The real server of a small bundle, and a real Chromium that asks it for pages."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Error,
    Page,
    Playwright,
    sync_playwright,
)

NAMES = ("chromium", "chromium-browser", "google-chrome")
STARTS = 120.0
"""Seconds within which the server must answer."""


@dataclass(frozen=True)
class Site:
    """A server under test.

    Args:
        url: of its first page.
        images: synthetic images of the very task.
        database: the prediction log.
    """

    url: str
    images: list[Path]
    database: Path


AS_USERS_DO = ("-m", "app")


def launched(
    folder: Path, *words: str, start: tuple[str, ...] = AS_USERS_DO, **variables: str
) -> tuple["subprocess.Popen[bytes]", str]:
    """The server as a user starts it, once it answers, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *start, "--port", str(port), *words]
    here = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1", **variables}
    with (folder / "server.txt").open("w") as out:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    try:
        _await(f"{url}/healthz", server, folder)
    except BaseException:
        server.kill()
        server.wait()
        raise
    return server, url


@contextmanager
def serving(folder: Path, *words: str, start: tuple[str, ...] = AS_USERS_DO) -> Iterator[str]:
    """The address of a server that is ended with the context."""
    server, url = launched(folder, *words, start=start)
    try:
        yield url
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)


def _await(url: str, server: "subprocess.Popen[bytes]", folder: Path) -> None:
    until = time.monotonic() + STARTS
    while time.monotonic() < until:
        assert server.poll() is None, (folder / "server.txt").read_text()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"no answer from {url}: {(folder / 'server.txt').read_text()}")


@contextmanager
def site_of(pipeline, folder: Path, start: tuple[str, ...] = AS_USERS_DO) -> Iterator[Site]:
    """One bundle, on loopback, with a log."""
    database = folder / "log.db"
    manifest = pd.read_parquet(pipeline.paths.manifest)
    images = [pipeline.paths.root / path for path in manifest["image_path"].iloc[:6]]
    words = ("--bundle", str(pipeline.paths.bundle), "--log", f"sqlite:///{database}")
    with serving(folder, *words, start=start) as url:
        yield Site(f"{url}/", images, database)


@pytest.fixture(scope="session")
def site(pipeline, tmp_path_factory) -> Iterator[Site]:
    """The site of most tests."""
    with site_of(pipeline, tmp_path_factory.mktemp("site")) as started:
        yield started


@pytest.fixture(scope="module")
def driver() -> Iterator[Playwright]:
    """Playwright, which speaks to the browser.

    It ends with the file: while it is there, no other test of this process can run an event loop.
    """
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(driver) -> Iterator[Browser]:
    """Debian's Chromium, or the one that Playwright has fetched."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    try:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
    except Error as error:
        pytest.skip(f"no Chromium here: apt install chromium ({str(error).splitlines()[0]})")
    yield started
    started.close()


def visitor(browser: Browser, **options: Any) -> BrowserContext:
    """A new visitor, who waits longer than on a machine that runs nothing else."""
    context = browser.new_context(**{"viewport": {"width": 1366, "height": 768}, **options})
    context.set_default_timeout(60_000)
    return context


@pytest.fixture
def window(browser) -> Iterator[Page]:
    """A new window of a new visitor; no error on the page, nothing asked of other machines."""
    context = visitor(browser, accept_downloads=True)
    page, faults, external = context.new_page(), [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: external.append(asked.url) if _is_outside(asked.url) else None)
    yield page
    context.close()
    assert faults == []
    assert external == []


def _is_outside(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))
