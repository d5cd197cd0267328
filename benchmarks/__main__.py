"""`python -m benchmarks [PART …]`: measure and write RESULTS.md and results.json.

A part is stored as it finishes, or task by task, in place of its own earlier rows of the tasks
that it found; the same command again goes on at the task where it was stopped. Add a part in
`parts.yaml`.
"""

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch

from benchmarks.harness.accelerator import networks_on
from benchmarks.harness.estimates import write_estimates
from benchmarks.harness.parts import PARTS, Part, Row
from benchmarks.harness.progress import each_task
from benchmarks.harness.readme import write_readme
from benchmarks.harness.report import PAGE, read, store
from cxr_mm.core.allocator import keep_freed_memory
from cxr_mm.core.errors import CxrError


def main(arguments: list[str]) -> None:
    """Measure the named parts, or all that need nothing special."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all but those marked *")
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="TASK",
        help="measure parts that go task by task on this one alone; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="say what there is to measure")
    parser.add_argument(
        "--readme", action="store_true", help="write the tables of README and docs/scale.md anew"
    )
    requested = parser.parse_args(arguments)
    if requested.readme:
        write_readme(read())
        write_estimates(read())
        return
    if requested.list:
        print("\n".join(_listed()))
        return
    if unknown := set(requested.parts) - set(PARTS):
        print(f"error: {', '.join(sorted(unknown))}: no such part. There are {', '.join(PARTS)}.")
        raise SystemExit(2)
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("timm").setLevel(logging.WARNING)
    wanted = requested.parts or [name for name, part in PARTS.items() if part.run_by_default]
    failed = [name for name in wanted if not _measured(name, requested.task)]
    if failed:
        print(f"error: not measured: {', '.join(failed)}.", file=sys.stderr)
        raise SystemExit(2)


def _measured(name: str, tasks: Sequence[str]) -> bool:
    """Measure and store one part; an error that a user can fix is printed, and the others go on."""
    started, count = time.perf_counter(), 0
    try:
        for rows in _rows(name, PARTS[name], tasks):
            store(name, rows)
            count += len(rows)
    except CxrError as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        return False
    print(f"{name}: {count} rows in {time.perf_counter() - started:.0f} s: {PAGE}")
    return True


def _rows(name: str, part: Part, tasks: Sequence[str]) -> Iterator[list[Row]]:
    """Measure a part, its networks on a GPU where the part allows that and there is one; rows of
    each task, or all at once."""
    use_gpu = part.gpu and torch.cuda.is_available()
    device, measure = torch.cuda.get_device_name() if use_gpu else "", part.load()
    with networks_on(torch.device("cuda")) if use_gpu else nullcontext():
        every = ([paths] for paths in each_task(name, part, tasks)) if part.after else [[]]
        for arguments in every:
            rows = measure(*arguments)
            yield [row.model_copy(update={"device": row.device or device}) for row in rows]


def _listed() -> Iterator[str]:
    for name, part in PARTS.items():
        yield f"{name}{'' if part.run_by_default else ' *'} ({part.takes})\n    {part.about}"
    yield "\n* only where it is named"


if __name__ == "__main__":
    main(sys.argv[1:])
