"""The secret behind the hashed ids: HMAC-SHA256 (RFC 2104), keyed so that ids cannot be guessed.

The key is the variable CXR_MM_LOG_SECRET or, beside an SQLite file `x.db`, the file
`x.db.secret` that is made once, random and readable by its owner alone. Whoever loses the key
can no longer join outcomes to the log; whoever has it can test guesses of ids.
"""

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from cxr_mm.errors import LogError
from cxr_mm.prediction_log.database import make_folder, sqlite_file

SECRET_VARIABLE = "CXR_MM_LOG_SECRET"
SHORTEST = 16


def keyed_hash(secret: bytes, text: str) -> str:
    """HMAC-SHA256 of a text, hexadecimal."""
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def chain_key(secret: bytes) -> bytes:
    """The key of the log's chain, so that the secret itself serves for ids alone."""
    return keyed_hash(secret, "chain").encode()


def checked_secret(secret: bytes | str | None) -> bytes | None:
    """The secret as bytes; None stays None.

    Raises:
        LogError: it is too short.
    """
    key = secret.encode() if isinstance(secret, str) else secret
    if key is not None and len(key) < SHORTEST:
        raise LogError(
            f"the secret has fewer than {SHORTEST} characters",
            field=SECRET_VARIABLE,
            remedy="Use a long random one",
        )
    return key


def find_secret(url: str) -> bytes:
    """The variable CXR_MM_LOG_SECRET, or the secret file beside an SQLite file, made once.

    Raises:
        LogError: another database and no variable; or a secret file that others can read or
            that cannot be made.
    """
    if given := os.environ.get(SECRET_VARIABLE):
        return given.encode()
    file = sqlite_file(url)
    if file is None:
        raise LogError(
            "only an SQLite log keeps its secret in a file",
            field=SECRET_VARIABLE,
            remedy=f"Set {SECRET_VARIABLE} to at least {SHORTEST} random characters",
        )
    path = file.with_name(f"{file.name}.secret")
    make_folder(file)
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            raise LogError("others can read it", field=str(path), remedy=f"chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise LogError(
            error.strerror or str(error), field=str(path), remedy="Check who owns the folder"
        ) from error


def _make(path: Path) -> None:
    """Link a finished file into place: of two processes that start at once, one wins whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    aside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32))
        path.hardlink_to(aside)
    except FileExistsError:
        return
    finally:
        aside.unlink()
