"""Images by URL: an object of S3, Google Cloud Storage or Azure, or a part of a shard.

A fragment names the part: `FILE.parquet#row=7` is the cell of a Parquet file, and
`FILE.tar#bytes=512-20480` a range of bytes, as of a member of a tar of WebDataset.
"""

import re
from functools import lru_cache
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxr_mm.core.errors import InputError, RadiographError
from cxr_mm.core.shards.store import SCHEMES, scheme_of, system_of, trouble
from cxr_mm.imaging.dicom import too_large
from cxr_mm.imaging.image_header import MAX_BYTES

ROW = re.compile(r"(.+)#row=(\d+)")
RANGE = re.compile(r"(.+)#bytes=(\d+)-(\d+)")
OPEN_FILES, KEPT_GROUPS = 4, 2
"""Parquet files, and row groups of images, that stay open for the next image."""
_lock = Lock()


def read_url(url: str) -> bytes:
    """Read an image by its URL, which may name a part of a shard.

    Raises:
        RadiographError: there is no such object, it is too large, or no scheme of `SCHEMES`.
        InputError: it may be there and cannot be had now: no package, permission or network.
    """
    if scheme_of(url) not in SCHEMES:
        raise RadiographError(
            f"images are not read by {scheme_of(url)}",
            field=url,
            remedy=f"Use {', '.join(SCHEMES)}",
        )
    try:
        if found := ROW.fullmatch(url):
            return read_row(found[1], int(found[2]))
        place, first, end = url, 0, None
        if found := RANGE.fullmatch(url):
            place, first, end = found[1], int(found[2]), int(found[3])
        system, path = system_of(place)
        if (system.info(path)["size"] if end is None else end - first) > MAX_BYTES:
            raise too_large(f"more than {MAX_BYTES // 1024**2} MiB", url)
        return bytes(system.cat_file(path, start=first, end=end))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise RadiographError("no such object", field=url, remedy="Check the URL") from error
    except pa.ArrowInvalid as error:
        raise RadiographError("the shard is damaged", field=url, remedy="Copy it again") from error
    except Exception as error:
        message, remedy = trouble(url, error)
        raise InputError(message, field=url, remedy=remedy) from error


def image_column(schema: pa.Schema) -> str | None:
    """Column of the bytes of images: the only one of bytes, else the one called `image`.

    A column of structs counts where they have a field `bytes`, as the data sets of Hugging Face
    write it.
    """
    found = {
        field.name: f"{field.name}.bytes" if pa.types.is_struct(field.type) else field.name
        for field in schema
        if _is_bytes(field.type)
        or (
            pa.types.is_struct(field.type)
            and any(part.name == "bytes" and _is_bytes(part.type) for part in field.type)
        )
    }
    return next(iter(found.values())) if len(found) == 1 else found.get("image")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read_row(url: str, row: int) -> bytes:
    """Read the image of a row of a Parquet file; the row group that it is of is kept.

    Raises:
        RadiographError: there is no such row, or no image in it.
    """
    with _lock:  # the threads that read ahead ask for neighbours
        file = _file(url)
        group = 0
        while group < file.num_row_groups and row >= file.metadata.row_group(group).num_rows:
            row -= file.metadata.row_group(group).num_rows
            group += 1
        cell = _images(url, group)[row].as_py() if group < file.num_row_groups else None
    content = cell["bytes"] if isinstance(cell, dict) else cell
    if content is None:
        raise RadiographError("there is no image in it", field=f"{url}#row={row}")
    return bytes(content)


@lru_cache(maxsize=OPEN_FILES)
def _file(url: str) -> Any:
    system, path = system_of(url)
    return pq.ParquetFile(system.open(path, "rb"))


@lru_cache(maxsize=KEPT_GROUPS)
def _images(url: str, group: int) -> pa.ChunkedArray:
    file = _file(url)
    return file.read_row_group(group, [image_column(file.schema_arrow)]).column(0)
