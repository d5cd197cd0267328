"""Rows: one figure each, with what it takes to measure it again; kept in results.json."""

from pathlib import Path
from typing import Any

from cxr_mm.contracts.frozen import Frozen
from cxr_mm.files import read_json, write_json, write_text

FOLDER = Path(__file__).parent
RESULTS, PAGE = FOLDER / "results.json", FOLDER / "RESULTS.md"


class Row(Frozen):
    """One measured figure.

    `value` is in the metric's own unit; `ci95` over patients where it is a metric of studies;
    `reference` is what it is to be compared with, where there is something.
    """

    table: str
    task: str
    row: str
    metric: str
    value: float
    ci95: tuple[float, float] | None = None
    reference: float | None = None
    n: int
    seed: int | None = None
    seconds: float | None = None
    device: str = "cpu"
    command: str


def store(table: str, rows: list[Row]) -> None:
    """Put the rows of one table in place of its earlier ones, and write the page anew."""
    before: list[dict[str, Any]] = read_json(RESULTS) if RESULTS.exists() else []
    kept = [Row.model_validate(row) for row in before if row["table"] != table]
    every = sorted([*kept, *rows], key=lambda row: row.table)
    write_json(RESULTS, [row.model_dump(mode="json") for row in every])
    write_text(PAGE, _page(every))


def _page(rows: list[Row]) -> str:
    lines = ["# Results", "", "Written by the commands named; intervals are over patients.", ""]
    for table in dict.fromkeys(row.table for row in rows):
        own = [row for row in rows if row.table == table]
        lines += [f"## {table}", "", f"`{own[0].command}`", ""]
        lines += ["| task | row | metric | value | 95 % | compare with | n |", "|---" * 7 + "|"]
        lines += [_line(row) for row in own]
        lines.append("")
    return "\n".join(lines)


def _line(row: Row) -> str:
    interval = "" if row.ci95 is None else f"{row.ci95[0]:.3f} to {row.ci95[1]:.3f}"
    reference = "" if row.reference is None else f"{row.reference:.3f}"
    cells = (row.task, row.row, row.metric, f"{row.value:.3f}", interval, reference, str(row.n))
    return f"| {' | '.join(cells)} |"
