"""Users: a file of names and scrypt hashes (RFC 7914), one user a line."""

import hashlib
import hmac
import os
import re
import secrets
import tempfile
from pathlib import Path

from cxr_mm.errors import InputError, ParamsError

COST = (1 << 15, 8, 1)
"""n, r, p of scrypt: about 0.1 seconds and 32 MB."""
SHORTEST = 12
NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
STORED = re.compile(r"scrypt\$(\d{1,8})\$(\d{1,3})\$(\d{1,3})\$([0-9a-f]{32,})\$([0-9a-f]{64})")


def hashed(password: str) -> str:
    """A password as the users file keeps it.

    Raises:
        InputError: it is shorter than 12 characters.
    """
    if len(password) < SHORTEST:
        raise InputError(
            f"the password has fewer than {SHORTEST} characters", remedy="Choose a longer one"
        )
    salt = secrets.token_bytes(16)
    return f"scrypt${COST[0]}${COST[1]}${COST[2]}${salt.hex()}${_scrypt(password, salt, *COST)}"


def matches(password: str, stored: str) -> bool:
    """Whether this is the password that was stored, in a time that does not tell."""
    found = STORED.fullmatch(stored)
    if found is None:
        return False
    n, r, p = (int(number) for number in found.groups()[:3])
    return hmac.compare_digest(_scrypt(password, bytes.fromhex(found[4]), n, r, p), found[5])


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> str:
    memory = 128 * r * (n + p + 2)
    text = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=32).hex()


NOBODY = f"scrypt${COST[0]}${COST[1]}${COST[2]}${'0' * 32}${'0' * 64}"
"""Compared with where there is no such user, so that it takes as long."""


class Users:
    """The users of a file, read again whenever it changes.

    Raises:
        ParamsError: the file cannot be read, or a line is not `name:scrypt$n$r$p$salt$hash`.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, -1
        self._stored: dict[str, str] = {}
        self.stored("")

    def stored(self, name: str) -> str | None:
        """The stored password of a user; None where there is no such user."""
        try:
            changed = self._file.stat().st_mtime_ns
            if changed != self._read:
                self._stored = read_users(self._file)
                self._read = changed
        except OSError as error:
            raise ParamsError(
                error.strerror or str(error),
                field=str(self._file),
                remedy="Make it with python -m app.sign_in FILE NAME",
            ) from error
        return self._stored.get(name)


def read_users(file: Path) -> dict[str, str]:
    """Name → stored password.

    Raises:
        ParamsError: a line is not `name:scrypt$n$r$p$salt$hash`.
        OSError: the file cannot be read.
    """
    users = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, stored = line.strip().partition(":")
        if not name:
            continue
        if not NAME.fullmatch(name) or not STORED.fullmatch(stored):
            raise ParamsError(
                f"line {number} is not name:scrypt$n$r$p$salt$hash",
                field=str(file),
                remedy="Make its lines with python -m app.sign_in",
            )
        users[name] = stored
    return users


def add_user(file: Path, name: str, password: str) -> None:
    """Add a user to the file or change the password; only the owner can read the file.

    Raises:
        InputError: the name has other than letters, digits and `._@-`, or the password is short.
        ParamsError: the file there is no users file.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            "a name has 1 to 64 letters, digits and ._@-", field=name, remedy="Choose another"
        )
    users = read_users(file) if file.exists() else {}
    users[name] = hashed(password)
    # Made readable for its owner only, from the first byte on.
    handle, aside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.writelines(f"{each}:{stored}\n" for each, stored in users.items())
        Path(aside).replace(file)
    finally:
        Path(aside).unlink(missing_ok=True)
