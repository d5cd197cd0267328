"""Results: the rows kept in results.json, and the page written from them."""

from pathlib import Path

from benchmarks.page import ordered, page
from benchmarks.parts import part_of
from benchmarks.rows import Row
from cxr_mm.files import read_json, write_json, write_text

FOLDER = Path(__file__).parent
RESULTS, PAGE = FOLDER / "results.json", FOLDER / "RESULTS.md"


def store(part: str, rows: list[Row]) -> None:
    """Put the rows of one part in place of its earlier ones, and write the page anew."""
    tables = {part, *(row.table for row in rows)}
    kept = [r for r in read() if r.table not in tables and part_of(r.command) != part]
    every = ordered([*kept, *rows])
    write_json(RESULTS, [row.model_dump(mode="json", exclude_none=True) for row in every])
    write_text(PAGE, page(every))


def read() -> list[Row]:
    """All rows kept."""
    if not RESULTS.exists():
        return []
    return [Row.model_validate(row) for row in read_json(RESULTS)]
