"""Pieces of a long part: rows of each are kept as it ends, so that the same command goes on."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from benchmarks.harness.parts import Row
from cxr_mm.core.files import read_json, write_json
from cxr_mm.core.progress import announce

Piece = Callable[[Path], Iterable[Row]]
"""Working folder → rows; it may use what earlier pieces left there."""


def measure_pieces(folder: Path, pieces: Mapping[str, Piece]) -> list[Row]:
    """Measure the pieces that no earlier run has; the folder is removed when all are there.

    Args:
        folder: where they work; `NAME.json` has the rows of a piece, and without it the piece is
            measured again.
        pieces: by name, in the order of their rows.
    """
    rows: list[Row] = []
    for name, piece in pieces.items():
        kept = folder / f"{name}.json"
        if kept.is_file():
            announce(f"{name}: measured by an earlier run ({kept})")
        else:
            announce(f"{name}: measuring")
            write_json(kept, [row.model_dump() for row in piece(folder)])
        rows += [Row.model_validate(row) for row in read_json(kept)]
    shutil.rmtree(folder)
    return rows
