"""Tables: every table of the project is read here, as text, by one set of rules.

A table is a CSV, or comes in shards: Parquet files or tars of WebDataset, also in an object store.
Encoding and separator are found, blanks around names and cells dropped, and the same words mean
"missing" in every column.
"""

import csv
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from cxr_mm.core.errors import ManifestError, nearest
from cxr_mm.core.shards.store import Place

MISSING = frozenset(("", ".", "na", "n/a", "#n/a", "<na>", "nan", "nat", "null"))
"""Words, in lower case, by which R, SAS, pandas, SQL and Excel write a missing value."""
SEPARATORS = (",", ";", "\t", "|")
STATED = re.compile(r"sep=(.)", re.IGNORECASE)
SAMPLE = 1 << 20
"""Bytes that are read at a time to find the encoding."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Args:
        encoding: Python's name of it.
        separator: between cells.
        stated: whether a first line `sep=;` states it, as Excel writes.
    """

    encoding: str
    separator: str
    stated: bool = False

    @property
    def usual(self) -> bool:
        """Whether it is UTF-8 with commas, which goes without saying."""
        return self.encoding == "utf-8-sig" and self.separator == ","


def is_missing(cell: object) -> bool:
    """Whether a cell or an entered text means that a value is not known; NaN and NA do too."""
    if isinstance(cell, str):
        return cell.strip().lower() in MISSING
    if isinstance(cell, float | np.floating):
        return bool(np.isnan(cell))
    return cell is None or cell is pd.NA


def read_table(path: Place, required: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table as text, missing cells as None.

    Raises:
        ManifestError: the file cannot be read or is no table, a name stands twice in its header,
            a row has more cells than the header, or a required column is missing.
    """
    return pd.concat(iter_table(path, required), ignore_index=True)


def iter_table(
    path: Place,
    required: Iterable[str] = (),
    rows: int = 4096,
    dialect: Dialect | None = None,
) -> Iterator[pd.DataFrame]:
    """Read a table `rows` rows at a time; at least one piece, which may be empty.

    Args:
        path: the table; a folder or URL has shards.
        required: columns that it must have.
        rows: in a piece.
        dialect: as `find_dialect` found it; None finds it.

    Raises:
        ManifestError: as `read_table`.
    """
    from cxr_mm.data.sources.shard_tables import iter_shards, shard_files  # they import this one

    if files := shard_files(path):
        yield from iter_shards(files, required, rows)
        return
    dialect = dialect or find_dialect(path)
    path = Path(path)
    with _typed_errors(path), path.open(encoding=dialect.encoding, newline="") as stream:
        if dialect.stated:
            stream.readline()
        reader = csv.reader(stream, delimiter=dialect.separator, strict=True)
        header = _header(next(reader, []), path)
        names = [name for name in header if name]
        require(names, required, path)
        cells, start = _cells(reader, header, path), 0
        while (piece := list(islice(cells, rows))) or not start:
            index = pd.RangeIndex(start, start := start + len(piece))
            yield pd.DataFrame(piece, index=index, columns=names, dtype=object)
            if not piece:
                return


def find_dialect(path: Place) -> Dialect:
    """Find the encoding by trying, and the separator by the header; say them if unusual.

    Raises:
        ManifestError: the file cannot be read, or is no text.
    """
    if isinstance(path, str):
        raise ManifestError(
            "no table in shards is there",
            field=path,
            remedy="Name a folder or file of Parquet or of tars (WebDataset), or copy the CSV here",
        )
    with _typed_errors(path):
        encoding = _encoding(path)
        with path.open(encoding=encoding, newline="") as stream:
            start = stream.read(SAMPLE)
    if any(character < " " and character not in "\t\r\n" for character in start):
        raise ManifestError("not a CSV but other data", field=str(path), remedy="Give a CSV file")
    line = start.partition("\n")[0]
    quoted_apart = "".join(line.split('"')[::2])
    dialect = Dialect(encoding, max(SEPARATORS, key=quoted_apart.count))
    if stated := STATED.fullmatch(line.strip()):
        dialect = Dialect(encoding, stated[1], stated=True)
    if not dialect.usual:
        _log.info("%s: read as %s, cells separated by %r", path, *_described(dialect))
    return dialect


def _encoding(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(2)
    if start in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            with path.open(encoding=encoding, newline="") as stream:
                while stream.read(SAMPLE):
                    pass
        except UnicodeDecodeError:
            continue
        return encoding
    raise ManifestError(
        "its encoding is neither UTF-8, UTF-16 nor Windows-1252",
        field=str(path),
        remedy="Save it as CSV in UTF-8",
    )


def _described(dialect: Dialect) -> tuple[str, str]:
    names = {"utf-8-sig": "UTF-8", "utf-16": "UTF-16", "cp1252": "Windows-1252"}
    return names[dialect.encoding], dialect.separator


def _header(cells: Sequence[str], path: Path) -> list[str]:
    """Names without blanks around them; a column may lack one, and is then left out."""
    names = [" ".join(cell.split()) for cell in cells]
    if not any(names):
        raise ManifestError(
            "the file is empty", field=str(path), remedy="Write a header and one row per study"
        )
    if twice := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        raise ManifestError(
            "the name stands twice in the header",
            field=f"{path}: {twice[0]}",
            remedy="Give each column a name of its own",
        )
    return names


def require(header: Collection[str], required: Iterable[str], path: Place) -> None:
    """Check that a table has its columns.

    Raises:
        ManifestError: it lacks one.
    """
    if missing := [name for name in required if name not in header]:
        raise missing_column(path, missing, header)


def missing_column(
    path: Path | str, names: Sequence[str], columns: Iterable[object]
) -> ManifestError:
    """Make the error for columns that a table lacks; it names the columns most like them."""
    present = [str(column) for column in columns]
    near = {name: own for name in names if (own := nearest(name, present))}
    renames = " and ".join(f"{own!r} to {name}" for name, own in near.items())
    rename = f"Rename {renames} if that is it, or add" if near else "Add"
    what, it = ("the column is", "column") if len(names) == 1 else ("these columns are", "columns")
    return ManifestError(
        f"{what} missing (there are {', '.join(present)})",
        field=": ".join(filter(None, (str(path), ", ".join(names)))),
        remedy=f"{rename} the {it}; leave cells empty where nothing is known",
    )


def _cells(
    reader: Iterator[list[str]], header: Sequence[str], path: Path
) -> Iterator[list[str | None]]:
    """Cells of the named columns, row by row; empty rows are left out, short ones filled up."""
    width, unnamed = len(header), 0
    named = [position for position, name in enumerate(header) if name]
    for row in reader:
        cells = [None if is_missing(cell) else cell.strip() for cell in row]
        if all(cell is None for cell in cells) and len(row) <= 1:
            continue
        if any(cell is not None for cell in cells[width:]):
            number = getattr(reader, "line_num", 0)
            raise ManifestError(
                f"line {number} has {len(row)} cells, the header {width}",
                field=str(path),
                remedy="Put quotes around cells that hold the separator",
            )
        cells += [None] * (width - len(cells))
        unnamed += sum(cells[k] is not None for k, name in enumerate(header) if not name)
        yield [cells[position] for position in named]
    if unnamed:
        _log.info("%s: %d cells in columns without a name are left out", path, unnamed)


@contextmanager
def _typed_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ManifestError(
            f"cannot be read ({error.strerror})",
            field=str(path),
            remedy="Give the path of a CSV file",
        ) from error
    except csv.Error as error:
        raise ManifestError(
            f"not a CSV: {error}",
            field=str(path),
            remedy="Put quotes around cells that hold the separator, and close each quote",
        ) from error
