"""The page: every table of the benchmarks as Markdown, those with something to compare with first.

Long tables are folded. Where rows carry a target or a reference each figure has a line; elsewhere
each row has a line and each metric a column.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.parts import PARTS, Met, Row
from cxr_mm.core.files import read_json, write_text
from cxr_mm.evaluation.resampling import holm

FOLDER = Path(__file__).parents[1]
RESULTS, PAGE = FOLDER / "results.json", FOLDER / "RESULTS.md"

FOLDED = 30
"""Lines from which a table is folded."""
INTRODUCTION = """# Results

Written by `make benchmark`; each table by the command under its heading. Brackets hold the 95 %
interval, over patients where the figure is one of studies. What a figure must be is met where its
confidence limit says so, not met where the whole interval is on the other side, and else not shown;
a figure without an interval, as a time, is taken as it is. A difference in bold differs from zero
after Holm's correction for all differences of its table. Where the device is a GPU the networks ran
there: an encoder trained there cannot be repeated to the bit, and all else differs from what a
processor gives in the last digits. `results.json` holds the same figures with their seeds, seconds
and devices.
"""
MET: dict[Met | None, str] = {
    None: "",
    "met": "met",
    "not shown": "not shown",
    "not met": "**not met**",
}
SIGNIFICANT = 0.05
Column = tuple[str, Callable[[Row], str]]


def page(rows: list[Row]) -> str:
    """Text of RESULTS.md."""
    every = ordered(rows)
    blocks = [INTRODUCTION, *_targets(every)]
    described: set[str] = set()
    for table in dict.fromkeys(row.table for row in every):
        own = [row for row in every if row.table == table]
        part = own[0].part
        blocks += [f"## {table}\n", f"`make benchmark PART={part}`\n"]
        if part in PARTS and part not in described:
            blocks.append(f"{PARTS[part].about}\n")
        described.add(part)
        lines = _table(own)
        blocks.append(_folded(lines, len(lines) - 2))
    return "\n".join(blocks)


def ordered(rows: list[Row]) -> list[Row]:
    """Rows in the order of the parts; within one as they are, tables and tasks kept together."""
    parts = list(PARTS)
    tables = list(dict.fromkeys(row.table for row in rows))

    def place(row: Row) -> tuple[int, int]:
        place_of_part = parts.index(row.part) if row.part in parts else len(parts)
        return place_of_part, tables.index(row.table)

    return sorted(rows, key=place)


def _targets(rows: list[Row]) -> list[str]:
    """How many targets are met by confidence limits, and by how much the others are missed."""
    bound = [row for row in rows if row.met is not None]
    if not bound:
        return []
    met = sum(row.met == "met" for row in bound)
    blocks = [f"**{met} of {len(bound)} figures are shown to be what they must be.**\n"]
    for state, heading in (("not met", "Not met:"), ("not shown", "Not shown:")):
        lines = [
            f"- {row.table}: {row.task}, {row.row}, {row.metric} {figure(row)},"
            f" must be {_bound(row, row.must)}"
            for row in bound
            if row.met == state
        ]
        if lines:
            blocks += [f"{heading}\n", _folded(lines, len(lines))]
    return blocks


def significant(rows: list[Row]) -> list[Row]:
    """Rows of a table with a difference from zero, after Holm's correction for all of them."""
    tested = [(row, row.p) for row in rows if row.p is not None]
    corrected = holm([p for _, p in tested])
    return [row for (row, _), p in zip(tested, corrected, strict=True) if p < SIGNIFICANT]


def _table(rows: list[Row]) -> list[str]:
    compared = any(
        row.must is not None or row.aim is not None or row.claimed is not None or row.reference
        for row in rows
    )
    return _by_figure(rows) if compared else _by_row(rows)


def _by_figure(rows: list[Row]) -> list[str]:
    part = PARTS.get(rows[0].part)
    heading = part.compare if part else "compare with"
    bold = significant(rows)
    columns: list[Column] = [
        ("task", lambda row: row.task),
        ("row", lambda row: row.row),
        ("metric", lambda row: row.metric),
        ("claimed", lambda row: _number(row.claimed)),
        ("value", lambda row: figure(row, row in bold)),
        (heading, lambda row: _number(row.reference or None)),
        ("must", lambda row: _bound(row, row.must)),
        ("met", lambda row: MET[row.met]),
        ("aim", lambda row: _bound(row, row.aim)),
        *_CIRCUMSTANCES,
    ]
    return _lines(columns, rows)


def _by_row(rows: list[Row]) -> list[str]:
    bold = significant(rows)
    figures = {(row.task, row.row, row.metric): figure(row, row in bold) for row in rows}
    first = {(row.task, row.row): row for row in reversed(rows)}
    lines = [first[key] for key in dict.fromkeys((row.task, row.row) for row in rows)]

    def of(metric: str) -> Column:
        return metric, lambda row: figures.get((row.task, row.row, metric), "")

    metrics = dict.fromkeys(row.metric for row in rows)
    columns: list[Column] = [("task", lambda row: row.task), ("row", lambda row: row.row)]
    return _lines([*columns, *map(of, metrics), *_CIRCUMSTANCES], lines)


def _lines(columns: list[Column], rows: list[Row]) -> list[str]:
    """A Markdown table without the columns that say nothing."""
    cells = [(heading, [cell(row) for row in rows]) for heading, cell in columns]
    cells = [(heading, values) for heading, values in cells if any(values)]
    if all(row.seconds is None and not row.on_gpu for row in rows):
        cells = [(heading, values) for heading, values in cells if heading != "device"]
    headings, columns_of_text = zip(*cells, strict=True)
    lines = [headings, *zip(*columns_of_text, strict=True)]
    first, *others = (f"| {' | '.join(c.replace('|', '/') for c in line)} |" for line in lines)
    return [first, "|---" * len(cells) + "|", *others]


def _folded(lines: list[str], rows: int) -> str:
    text = "\n".join(lines) + "\n"
    if rows < FOLDED:
        return text
    return f"<details><summary>{rows} rows</summary>\n\n{text}\n</details>\n"


def figure(row: Row, bold: bool = False) -> str:
    """A value with its interval."""
    value = f"**{_number(row.value)}**" if bold else _number(row.value)
    if row.ci95 is None:
        return value
    return f"{value} ({_number(row.ci95[0])} to {_number(row.ci95[1])})"


def _bound(row: Row, bound: float | None) -> str:
    return "" if bound is None else f"{'≤' if row.ceiling else '≥'} {_number(bound)}"


def _number(value: float | None) -> str:
    """Three decimals, or as many digits as tell large and small numbers; a count has none."""
    if value is None:
        return ""
    if value.is_integer() and abs(value) > 1:
        return f"{value:.0f}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 100 or value == 0 else f"{value:.3g}"


def _seconds(row: Row) -> str:
    if row.seconds is None:
        return ""
    return f"{row.seconds:.0f}" if row.seconds >= 10 else f"{row.seconds:.2g}"


_CIRCUMSTANCES: list[Column] = [
    ("n", lambda row: str(row.n)),
    ("seconds", _seconds),
    ("device", lambda row: row.device),
]


def store(part: str, rows: list[Row]) -> None:
    """Put the rows of one part in place of its earlier ones of the same tasks, and write the page
    anew; rows of tasks that were not measured this time stay."""
    from benchmarks.harness.timing import device

    measured = {row.task for row in rows}
    with _alone():
        every = [row for row in read() if row.part != part or row.task not in measured]
        for row in rows:
            given = {"part": part, "table": row.table or part, "device": row.device or device()}
            every.append(row.model_copy(update=given))
        every = ordered(every)
        lines = (row.model_dump_json(exclude_defaults=True) for row in every)
        write_text(RESULTS, "[\n" + ",\n".join(lines) + "\n]\n")
        write_text(PAGE, page(every))


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other commands from storing meanwhile."""
    folder = os.open(RESULTS.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def read() -> list[Row]:
    """All stored rows."""
    if not RESULTS.exists():
        return []
    return [Row.model_validate(row) for row in read_json(RESULTS)]
