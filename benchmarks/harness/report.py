"""The page: every table of the benchmarks as Markdown, those with something to compare with first.

Long tables are folded. Where rows carry a target or a reference each figure has a line; elsewhere
each row has a line and each metric a column.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness.parts import PARTS, Row, part_of
from cxr_mm.core.files import read_json, write_json, write_text
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.types import MODALITIES, Frozen

FOLDED = 30
"""Lines from which a table is folded."""
INTRODUCTION = """# Results

Written by `make benchmark`; each table by the command under its heading. Brackets hold the 95 %
interval, over patients where the figure is one of studies. `results.json` holds the same figures
with their seeds, seconds and devices.
"""
Column = tuple[str, Callable[[Row], str]]


def page(rows: list[Row]) -> str:
    """Text of RESULTS.md."""
    every = ordered(rows)
    blocks = [INTRODUCTION, *_targets(every)]
    result: set[str] = set()
    for table in dict.fromkeys(row.table for row in every):
        own = [row for row in every if row.table == table]
        part = part_of(own[0].command)
        about = "" if part in result or part not in PARTS else f"{PARTS[part].about}\n"
        result.add(part)
        blocks += [f"## {table}\n", f"`{own[0].command}`\n", *([about] if about else [])]
        blocks.append(_folded(_table(own)))
    return "\n".join(blocks)


def ordered(rows: list[Row]) -> list[Row]:
    """Rows in the order of the parts; within one as they are, tables and tasks kept together."""
    parts = list(PARTS)
    tables = list(dict.fromkeys(row.table for row in rows))

    def place(row: Row) -> tuple[int, int]:
        part = part_of(row.command)
        return (parts.index(part) if part in parts else len(parts), tables.index(row.table))

    return sorted(rows, key=place)


def _targets(rows: list[Row]) -> list[str]:
    """How many targets are met, and by how much the others are missed."""
    requested = [row for row in rows if row.met is not None]
    if not requested:
        return []
    missed = [row for row in requested if not row.met]
    lines = [
        f"**{len(requested) - len(missed)} of {len(requested)} figures are what they must be.**"
    ]
    if missed:
        lines += ["Not met:", ""]
    for row in missed:
        lines.append(
            f"- {row.table}: {row.task}, {row.row}, {row.metric} {_number(row.value)},"
            f" must be {_bound(row, row.must)}"
        )
    return ["\n".join(lines) + "\n"]


def _table(rows: list[Row]) -> list[str]:
    compared = any(
        row.must is not None or row.aim is not None or row.claimed is not None or row.reference
        for row in rows
    )
    return _by_figure(rows) if compared else _by_row(rows)


def _by_figure(rows: list[Row]) -> list[str]:
    part = part_of(rows[0].command)
    heading = PARTS[part].compare if part in PARTS else "compare with"
    columns: list[Column] = [
        ("task", lambda row: row.task),
        ("row", lambda row: row.row),
        ("metric", lambda row: row.metric),
        ("claimed", lambda row: _number(row.claimed)),
        ("value", _figure),
        (heading, lambda row: _number(row.reference or None)),
        ("must", lambda row: _bound(row, row.must)),
        ("met", _met),
        ("aim", lambda row: _bound(row, row.aim)),
        *_CIRCUMSTANCES,
    ]
    return _lines(columns, rows)


def _by_row(rows: list[Row]) -> list[str]:
    figures: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        figures.setdefault((row.task, row.row), {})[row.metric] = row
    first = [next(iter(line.values())) for line in figures.values()]

    def of(metric: str) -> Column:
        def cell(row: Row) -> str:
            found = figures[row.task, row.row].get(metric)
            return "" if found is None else _figure(found)

        return metric, cell

    metrics = dict.fromkeys(row.metric for row in rows)
    columns: list[Column] = [("task", lambda row: row.task), ("row", lambda row: row.row)]
    return _lines([*columns, *map(of, metrics), *_CIRCUMSTANCES], first)


def _lines(columns: list[Column], rows: list[Row]) -> list[str]:
    """A Markdown table without the columns that say nothing."""
    cells = [(heading, [cell(row) for row in rows]) for heading, cell in columns]
    cells = [(heading, values) for heading, values in cells if any(values)]
    if all(row.seconds is None for row in rows):
        cells = [(heading, values) for heading, values in cells if heading != "device"]
    lines = [_joined([heading for heading, _ in cells]), "|---" * len(cells) + "|"]
    return lines + [_joined([v[i] for _, v in cells]) for i in range(len(rows))]


def _joined(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _folded(lines: list[str]) -> str:
    text = "\n".join(lines) + "\n"
    if len(lines) < FOLDED:
        return text
    return f"<details><summary>{len(lines) - 2} rows</summary>\n\n{text}\n</details>\n"


def _figure(row: Row) -> str:
    value = f"**{_number(row.value)}**" if row.is_significant else _number(row.value)
    if row.ci95 is None:
        return value
    return f"{value} ({_number(row.ci95[0])} to {_number(row.ci95[1])})"


def _met(row: Row) -> str:
    return {None: "", True: "yes", False: "**no**"}[row.met]


def _bound(row: Row, bound: float | None) -> str:
    return "" if bound is None else f"{'≤' if row.ceiling else '≥'} {_number(bound)}"


def _number(value: float | None) -> str:
    """Three decimals, or as many digits as tell large and small numbers."""
    if value is None:
        return ""
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


RUNS_VARIABLE = "CXR_MM_RUNS"
FUSED, BEST_SINGLE, AVAILABLE = "fused", "best single", "available"
Metrics = dict[str, Any]


class Figure(Frozen):
    """A metric of one subset of modalities."""

    value: float
    ci95: tuple[float, float] | None
    n: int


def shipped_metrics(task: str) -> Metrics | None:
    """What `dvc repro` left for a task below CXR_MM_RUNS (default: here); None where nothing."""
    root = Path(os.environ.get(RUNS_VARIABLE) or ".")
    file = TaskPaths(task, root).reports / "metrics.json"
    return read_json(file) if file.is_file() else None


def figure(metrics: Metrics, inputs: str, metric: str) -> Figure | None:
    """A metric of one finding, or of the mean over several; None where it is not defined.

    It is the mean over all divisions into folds where there are several.

    Args:
        metrics: content of metrics.json.
        inputs: a subset of modalities, `fused` (whatever a study has) or `best single` (the
            modality best at this metric on these studies).
        metric: as metrics.json names it.
    """
    if inputs == BEST_SINGLE:
        singles = [figure(metrics, modality, metric) for modality in MODALITIES]
        return max((f for f in singles if f), key=lambda f: f.value, default=None)
    subsets = metrics.get("divisions", metrics)["subsets"]
    seen = subsets.get(AVAILABLE if inputs == FUSED else inputs)
    return None if seen is None else _read(whole(seen), metric, seen["n"])


def whole(seen: Metrics) -> Metrics:
    """Figures of one subset over all its findings."""
    found: Metrics = seen.get("macro") or next(iter(seen["findings"].values()))
    return found


def _read(values: Metrics, metric: str, n: int) -> Figure | None:
    found = values.get(metric)
    if not isinstance(found, dict) or found.get("value") is None:
        return None
    return Figure(value=found["value"], ci95=found.get("ci95"), n=n)


FOLDER = Path(__file__).parents[1]
RESULTS, PAGE = FOLDER / "results.json", FOLDER / "RESULTS.md"


def store(part: str, rows: list[Row]) -> None:
    """Put the rows of one part in place of its earlier ones, and write the page anew."""
    tables = {part, *(row.table for row in rows)}
    stored = [r for r in read() if r.table not in tables and part_of(r.command) != part]
    every = ordered([*stored, *rows])
    write_json(RESULTS, [row.model_dump(mode="json", exclude_none=True) for row in every])
    write_text(PAGE, page(every))


def read() -> list[Row]:
    """All rows kept."""
    if not RESULTS.exists():
        return []
    return [Row.model_validate(row) for row in read_json(RESULTS)]
