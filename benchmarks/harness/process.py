"""Process: a command of the project in a process of its own, and what it costs.

Linux counts the memory of the process that starts another into the peak of the new one, so a
process that has loaded a network must not start what is measured; this file, run as a script that
imports nothing large, does it instead.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """What one process and those that it started cost."""

    wall: float
    """Seconds from start to end, as are those of the processor."""
    user: float
    system: float
    peak: float
    """Largest resident memory of any of them, in MiB."""
    faults: int
    """Pages that the kernel had to map."""


def run_process(
    module: str,
    *words: object,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    accepted: Sequence[int] = (0,),
) -> Usage:
    """Run `python -m MODULE WORDS` and measure it; its output is dropped, its errors are shown.

    Args:
        module: what to run.
        words: its arguments.
        folder: working folder; default: the present one.
        environment: variables on top of the present ones.
        accepted: exit codes that are no failure.

    Raises:
        subprocess.CalledProcessError: it ended with another code.
    """
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(
        [sys.executable, "-S", __file__, *command],
        check=True,
        stdout=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, **(environment or {})},
    )
    code, *usage = json.loads(done.stdout)
    if code not in accepted:
        raise subprocess.CalledProcessError(code, command)
    return Usage(*usage)


def _main(command: list[str]) -> None:
    started = time.perf_counter()
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    child = os.posix_spawn(command[0], command, os.environ, file_actions=silent)
    _, status, used = os.wait4(child, 0)
    wall, peak = time.perf_counter() - started, used.ru_maxrss / 1024
    figures = [wall, used.ru_utime, used.ru_stime, peak, used.ru_minflt + used.ru_majflt]
    print(json.dumps([os.waitstatus_to_exitcode(status), *figures]))


if __name__ == "__main__":
    _main(sys.argv[1:])
