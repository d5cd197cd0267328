"""Fingerprints: hashes by which studies that a bundle was trained on are found among others."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cxr_mm.core.files import sha256_file

KINDS = ("study_id", "patient_id", "image")
WHOLE_NUMBER = re.compile(r"^(-?\d+)[.,]0+$")


def id_key(text: str) -> str:
    """Key by which `12` and `12.0`, and ids that differ only by case, are one."""
    return WHOLE_NUMBER.sub(r"\1", text.strip()).casefold()


@dataclass(frozen=True)
class Fingerprints:
    """Keyed hashes of studies, by kind (`KINDS`); an image's is of its file's bytes.

    Args:
        key: of the hashes, up to 64 characters; another bundle has another.
        hashes: kind → uint64 (N,), sorted, each once.
    """

    key: str
    hashes: Mapping[str, NDArray[np.uint64]]

    @classmethod
    def of(cls, key: str, values: Mapping[str, Iterable[str | None]]) -> Self:
        """Hash the values of each kind; None and empty text are left out."""
        return cls(
            key,
            {
                kind: np.array(
                    sorted({_hash(key, v) for v in given if isinstance(v, str) and v}),
                    dtype=np.uint64,
                )
                for kind, given in values.items()
            },
        )

    def contains(self, kind: str, values: Iterable[str | None]) -> NDArray[np.bool_]:
        """Which of N values are among the studies, bool (N,)."""
        known = set(self.hashes[kind].tolist())
        return np.array(
            [isinstance(v, str) and v != "" and _hash(self.key, v) in known for v in values],
            dtype=bool,
        )


def file_digest(path: str | None) -> str | None:
    """Digest of an image file; None where there is none to read."""
    try:
        return sha256_file(Path(path)) if path else None
    except OSError:  # the study's own reader says what is wrong with it
        return None


def _hash(key: str, value: str) -> int:
    digest = hashlib.blake2b(id_key(value).encode(), key=key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
