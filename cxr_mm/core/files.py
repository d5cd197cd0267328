"""Atomic writes: files appear under a temporary name and are renamed; JSON, Parquet, tensors."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from cxr_mm.core.errors import InputError, StorageError

if TYPE_CHECKING:
    import pandas as pd  # not at run time: those who decode images need none

CHUNK = 1 << 20
LONGEST_NAME = 255
FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS))
"""Errors of writing that name no file."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix); on success it replaces `path`.

    The file has the mode that the umask gives. Where the body raises, the temporary file is
    removed and `path` is untouched.

    Raises:
        StorageError: it cannot be written.
    """
    temporary = _beside(path, path.suffix)
    with _typed_errors(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        try:
            yield temporary
            temporary.chmod(mode)  # some writers make a file of their own, for its owner alone
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it replaces `path` as a whole.

    Raises:
        StorageError: it cannot be written.
    """
    temporary, old = _beside(path), _beside(path, ".old")
    with _typed_errors(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            _swap(temporary, path, old)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path, old: Path) -> None:
    """Put a folder in the place of another, which comes back where that fails."""
    if path.exists():
        path.replace(old)
    try:
        new.replace(path)
    except OSError:
        if old.exists():
            old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, suffix: str = "") -> Path:
    """A hidden name that no other file has, in the same folder."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}{suffix}")


@contextmanager
def _typed_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Turn the errors of writing `path`, and no others of the body, into a StorageError."""
    try:
        yield
    except OSError as error:
        named = error.filename
        ours = (
            error.errno in FULL
            if named is None
            else Path(os.fsdecode(named)).is_relative_to(temporary)
            or path.is_relative_to(os.fsdecode(named))
        )
        if not ours:
            raise
        raise StorageError(
            f"cannot be written ({error.strerror or error})",
            field=shortened(path),
            remedy="Make room on the disk, see who may write there, or choose another place",
        ) from error


def shortened(path: Path) -> str:
    """The path for a message, up to a name that is too long for any file: it may be a note."""
    possible = list(
        takewhile(lambda part: len(part.encode(errors="replace")) <= LONGEST_NAME, path.parts)
    )
    return str(path) if len(possible) == len(path.parts) else str(Path(*possible, "…"))


def check_writable(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Check before long work that a file or folder can be written to its place.

    Args:
        path: which is to be written; its parent folders are made.
        inputs: files that must not be replaced.

    Raises:
        InputError: it is one of the inputs.
        StorageError: it cannot be written there.
    """
    for given in inputs:
        if path.resolve() == given.resolve():
            raise InputError("is the input itself", field=str(path), remedy="Name another output")
    probe = _beside(path, path.suffix)
    with _typed_errors(path, probe):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()


def check_replaceable(folder: Path, mark: str) -> None:
    """Check that a folder which is replaced as a whole has nothing but an earlier output.

    Args:
        folder: to be written.
        mark: file that every such output has.

    Raises:
        InputError: it is a file, or has other content.
    """
    if not folder.exists() or (folder / mark).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise InputError(
            "exists, and is no earlier output", field=str(folder), remedy="Name another folder"
        )


def save_tensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays of any shape as safetensors, with the mode that the umask gives.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic_write(path) as temporary:
        try:
            save_file({n: np.asarray(a, order="C") for n, a in arrays.items()}, temporary)
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; keys in the order given, NaN as null."""
    write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """JSON text of plain values, numpy numbers and arrays; NaN and infinities become null."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_parquet(path: Path, frame: "pd.DataFrame") -> None:
    """Write a Parquet file whole or not at all."""
    with atomic_write(path) as temporary:
        frame.to_parquet(temporary, index=False)


def sha256_file(path: Path) -> str:
    """Digest of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
