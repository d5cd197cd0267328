"""`python -m benchmarks [PART …]`: measure and write RESULTS.md and results.json."""

import sys
from collections.abc import Callable

from benchmarks import precision, tasks
from benchmarks.rows import PAGE, Row, store

PARTS: dict[str, Callable[[], list[Row]]] = {
    "precision": precision.measure,
    "tasks": tasks.measure,
}


def main(names: list[str]) -> None:
    """Measure the named parts, or all."""
    if unknown := set(names) - set(PARTS):
        print(f"error: {', '.join(sorted(unknown))}: no such part. There are {', '.join(PARTS)}.")
        raise SystemExit(2)
    for name in names or PARTS:
        store(name, PARTS[name]())
        print(f"{name}: {PAGE}")


if __name__ == "__main__":
    main(sys.argv[1:])
