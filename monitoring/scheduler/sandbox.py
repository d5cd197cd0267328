"""Sandbox: the report of a window in a process of its own, with limits on memory and time."""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json
from cxr_mm.core.verdict import EXIT_CODES, VERDICT_FILE, Verdict
from monitoring.config import ReportSettings
from monitoring.report.turn import Turn
from monitoring.scheduler.cron import Window
from monitoring.sites.aggregate import AGGREGATES, Aggregate

LOOK_SECONDS = 0.1
TAIL = 500
"""Characters of output that an error message quotes."""


def report_sandboxed(
    command: Sequence[str],
    window: Window,
    folder: Path,
    settings: ReportSettings,
    turn: Turn,
    step: Callable[[], bool],
) -> Verdict:
    """Run the report of a window and read its verdict.

    Args:
        command: arguments of Python; bounds of the window and folder are added to them.
        window: what is reported.
        folder: where.
        settings: caps.
        turn: what the report waits for before it decides.
        step: called again and again; whether the report has had its turn, before which its time
            does not count and its end is not seen. What it raises kills the report.

    Raises:
        StageError: it failed, with its last words, or took too much memory or time.
    """
    words = [
        *("--since", window.since.isoformat()),
        *("--until", window.until.isoformat()),
        *("--out", str(folder), "--turn", str(turn.folder)),
    ]
    capped = ["-m", "monitoring.scheduler.capped", str(settings.memory_mib), str(os.getpid()), "--"]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *capped, sys.executable, *command, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the runner alone, which lets it finish
        )
        try:
            code = _ended(process, settings.minutes * 60, step)
        finally:
            _kill(process)
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    if code not in EXIT_CODES.values():
        raise StageError(_failure(code, text, settings), field=str(window))
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


def read_aggregates(folder: Path) -> dict[str, Aggregate]:
    """What a report left of each site.

    Raises:
        StageError: it is damaged.
    """
    try:
        found = read_json(folder / VERDICT_FILE).get(AGGREGATES, {})
        return {site: Aggregate.model_validate(content) for site, content in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise StageError("the report's aggregates are damaged", field=str(folder)) from error


def _ended(process: "subprocess.Popen[bytes]", seconds: float, step: Callable[[], bool]) -> int:
    """Wait for the end and for its turn; the exit code."""
    end = math.inf
    while True:
        code, now = process.poll(), time.monotonic()
        if step():
            if code is not None:
                return code
            end = min(end, now + seconds)
        if now > end:
            raise StageError(f"the report took more than {seconds / 60:g} minutes")
        time.sleep(LOOK_SECONDS)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(code: int, text: str, settings: ReportSettings) -> str:
    last = text.splitlines()[-1][-TAIL:] if text else "no output"
    if "MemoryError" in text or "Unable to allocate" in text or "bad_alloc" in text:
        return f"the report took more than {settings.memory_mib} MiB of memory ({last})"
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"the report failed with {ended}: {last}"
