"""Reporting: one report in a fresh process, with a cap on memory and on time."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from cxr_mm.contracts.verdict import EXIT_CODES, VERDICT_FILE, Verdict
from cxr_mm.errors import CancelledError, StageError
from cxr_mm.files import read_json
from monitoring.running.cron import Window
from monitoring.settings import ReportSettings

LOOK_SECONDS = 0.1
TAIL = 500
"""Characters of the last words of a report that failed."""


def report_apart(
    command: Sequence[str],
    window: Window,
    folder: Path,
    settings: ReportSettings,
    stopped: Callable[[], bool],
) -> Verdict:
    """Run the report of a window and read its verdict.

    Args:
        command: arguments of Python; bounds of the window and folder are added to them.
        window: what is reported.
        folder: where.
        settings: caps.
        stopped: whether the report is to be killed.

    Raises:
        StageError: it failed, with its last words, or took too much memory or time.
        CancelledError: it was stopped.
    """
    words = [
        *("--since", window.since.isoformat()),
        *("--until", window.until.isoformat()),
        *("--out", str(folder)),
    ]
    capped = ["-m", "monitoring.running.capped", str(settings.memory_mib), str(os.getpid()), "--"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, *capped, sys.executable, *command, *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the runner alone, which lets it finish
        )
        try:
            code = _ended(process, settings.minutes * 60, stopped)
        finally:
            _kill(process)
        said.seek(0)
        text = said.read().decode(errors="replace").strip()
    if code not in EXIT_CODES.values():
        raise StageError(_why(code, text, settings), field=str(window))
    return read_verdict(folder)


def read_verdict(folder: Path) -> Verdict:
    """The verdict that a report left.

    Raises:
        StageError: there is none.
    """
    try:
        return Verdict.of_facts(read_json(folder / VERDICT_FILE))
    except (OSError, ValueError, AttributeError) as error:
        raise StageError("the report left no verdict", field=str(folder)) from error


def _ended(process: "subprocess.Popen[bytes]", seconds: float, stopped: Callable[[], bool]) -> int:
    """Wait for the end; the exit code."""
    end = time.monotonic() + seconds
    while (code := process.poll()) is None:
        if stopped():
            raise CancelledError("the report was stopped")
        if time.monotonic() > end:
            raise StageError(f"the report took more than {seconds / 60:g} minutes")
        time.sleep(LOOK_SECONDS)
    return code


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End it and whatever it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _why(code: int, text: str, settings: ReportSettings) -> str:
    last = text.splitlines()[-1][-TAIL:] if text else "it said nothing"
    if "MemoryError" in text or "Unable to allocate" in text or "bad_alloc" in text:
        return f"the report took more than {settings.memory_mib} MiB of memory ({last})"
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"the report failed with {ended}: {last}"
