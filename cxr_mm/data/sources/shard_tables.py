"""Tables in shards: studies as rows of Parquet files, or as samples of tars of WebDataset.

Images may be inside: the cell `image_path` is then a URL that says where, see
`cxr_mm.imaging.urls`; none is read here.
"""

import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxr_mm.core.errors import ManifestError
from cxr_mm.core.files import sha256_file
from cxr_mm.core.shards.store import Place, system_of, trouble
from cxr_mm.data.tables import is_missing, require
from cxr_mm.imaging.urls import image_column

SUFFIXES = (".parquet", ".tar")
IMAGES = frozenset(("png", "jpg", "jpeg", "dcm", "dicom"))
"""Suffixes of the images of a sample."""
SAMPLE = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
"""Name of a member of a tar: key of the sample, then what it is of it."""
READ_AHEAD = 1 << 16
"""Bytes that are read at a time of a tar, whose images are passed over."""
Rows = Iterator[dict[str, str | None]]


def shard_files(place: Place) -> tuple[str, ...]:
    """URLs of the shards of a table, in the order of their names; none where it is no such table.

    Args:
        place: a Parquet file, a tar, or a folder with such files; a path or a URL.

    Raises:
        ManifestError: the object store cannot be asked.
    """
    if isinstance(place, Path):
        if place.is_dir():
            found = (path for path in place.iterdir() if path.suffix in SUFFIXES)
            return tuple(sorted(f"file://{path.absolute()}" for path in found))
        return (f"file://{place.absolute()}",) if place.suffix in SUFFIXES else ()
    if place.endswith(SUFFIXES):
        return (place,)
    try:
        system, path = system_of(place)
        names = system.ls(path, False) if system.isdir(path) else []
        return tuple(
            sorted(system.unstrip_protocol(name) for name in names if name.endswith(SUFFIXES))
        )
    except Exception as error:
        raise _unavailable(place, error) from error


def table_digest(place: Place) -> str:
    """Digest of a CSV's bytes, or of names and sizes of shards, which take long to read; empty for
    a folder without any.

    Raises:
        ManifestError: it cannot be read.
    """
    try:
        if files := shard_files(place):
            return sha256("\n".join(f"{url} {_size(url)}" for url in files).encode()).hexdigest()
        return "" if Path(place).is_dir() else sha256_file(Path(place))
    except OSError as error:
        raise ManifestError(
            f"cannot be read ({error.strerror})",
            field=str(place),
            remedy="Give the path of a CSV file, or of shards",
        ) from error


def _size(url: str) -> int:
    try:
        system, path = system_of(url)
        return int(system.info(path)["size"])
    except Exception as error:
        raise _unavailable(url, error) from error


def iter_shards(files: Iterable[str], required: Iterable[str], rows: int) -> Iterator[pd.DataFrame]:
    """Read shards at most `rows` rows at a time, as text; missing cells are None.

    Columns are those of the first shard. Of a sample, `study_id` is the key unless its JSON has
    one, `image_path` its image, `note` its text, and others the fields of its JSON.

    Raises:
        ManifestError: a shard cannot be read, lacks a required column, or has one that the first
            lacks.
    """
    names: list[str] = []
    start = 0
    for url in files:
        for piece in _frames(url, rows):
            if not names:
                names = list(piece.columns)
                require(names, required, url)
            if more := [name for name in piece.columns if name not in names]:
                raise ManifestError(
                    f"has {', '.join(more)}, which the first shard lacks",
                    field=url,
                    remedy="Give every shard the same columns, null where nothing is known",
                )
            index = pd.RangeIndex(start, start := start + len(piece))
            piece = piece.reindex(columns=names).astype(object)
            yield piece.where(piece.notna(), None).set_index(index)


def _frames(url: str, rows: int) -> Iterator[pd.DataFrame]:
    try:
        system, path = system_of(url)
        with system.open(path, "rb", block_size=READ_AHEAD) as stream:
            if url.endswith(".parquet"):
                yield from _parquet_frames(url, stream, rows)
            else:
                samples = pd.DataFrame(list(_samples(url, stream)), dtype=object)
                for first in range(0, len(samples), rows):
                    yield samples.iloc[first : first + rows]
    except ManifestError:
        raise
    except (pa.ArrowInvalid, tarfile.TarError, UnicodeDecodeError, ValueError) as error:
        raise ManifestError(
            f"is no readable shard ({error})", field=url, remedy="Write or copy it again"
        ) from error
    except Exception as error:
        raise _unavailable(url, error) from error


def _parquet_frames(url: str, stream: BinaryIO, rows: int) -> Iterator[pd.DataFrame]:
    file = pq.ParquetFile(stream)
    image = image_column(file.schema_arrow)
    replaced = {image, "image_path"} if image else set()
    plain = [
        field.name
        for field in file.schema_arrow
        if not pa.types.is_nested(field.type) and field.name not in replaced
    ]
    position = 0
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, plain)
        if image:
            places = [f"{url}#row={position + row}" for row in range(table.num_rows)]
            for row in _without_image(file, group, image):
                places[row] = None  # type: ignore[call-overload]
            table = table.append_column("image_path", pa.array(places, pa.string()))
        position += table.num_rows
        for first in range(0, table.num_rows, rows):
            cells = table.slice(first, rows).to_pydict()
            yield pd.DataFrame(
                {name: [_text(cell) for cell in column] for name, column in cells.items()},
                dtype=object,
            )


def _without_image(file: Any, group: int, image: str) -> list[int]:
    """Rows of a row group without an image; images are read only if the file counts such rows."""
    columns = file.metadata.row_group(group)
    named = {
        columns.column(n).path_in_schema: columns.column(n) for n in range(columns.num_columns)
    }
    statistics = named[image].statistics
    if statistics is not None and statistics.has_null_count and not statistics.null_count:
        return []
    column = file.read_row_group(group, [image]).column(0)
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    return [row for row, empty in enumerate(pc.is_null(column).to_pylist()) if empty]


def _samples(url: str, stream: BinaryIO) -> Rows:
    """Rows of a tar: members of one key, one after another, are a sample."""
    key, row = "", dict[str, str | None]()
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            found = SAMPLE.fullmatch(member.name)
            if not member.isfile() or found is None:
                continue
            if found[1] != key and row:
                yield row
                row = {}
            key = found[1]
            row.setdefault("study_id", key)
            kind = found[2].rpartition(".")[2].lower()
            if kind in IMAGES:
                if "image_path" in row:
                    raise ManifestError(
                        f"sample {key} has two images", field=url, remedy="Keep the frontal one"
                    )
                end = member.offset_data + member.size
                row["image_path"] = f"{url}#bytes={member.offset_data}-{end}"
            elif kind in ("json", "txt"):
                text = archive.extractfile(member).read().decode()  # type: ignore[union-attr]
                row |= _fields(text) if kind == "json" else {"note": _text(text)}
    if row:
        yield row


def _fields(text: str) -> dict[str, str | None]:
    given = json.loads(text)
    if not isinstance(given, dict):
        raise ValueError("the JSON of a sample is no object")
    return {name: _text(v) for name, v in given.items() if not isinstance(v, (dict, list))}


def _text(cell: object) -> str | None:
    """A cell as a CSV would have it; None where it says that the value is missing."""
    if isinstance(cell, bool):
        return str(int(cell))
    return None if is_missing(cell) else str(cell).strip()


def _unavailable(url: str, error: Exception) -> ManifestError:
    message, remedy = trouble(url, error)
    return ManifestError(message, field=url, remedy=remedy)
