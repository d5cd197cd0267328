"""The exception tree: each error has a message, the field at fault and a remedy.

CxrError
├── TaskError            a task file that is incomplete or invalid
├── ParamsError          params.yaml or a task's overrides
├── DataNotFoundError    a source whose files are missing
├── InputError           an input of a user
│   ├── RadiographError  a file that is not a readable radiograph
│   ├── ClinicalError    a clinical value: unknown, out of range, wrong type
│   ├── NoteError        a note that cannot be read
│   └── ManifestError    a table of studies: column, row or label
├── WeightsError         pretrained weights that are unavailable or do not fit
├── BundleError          a bundle that is damaged, foreign or incomplete
├── StageError           a stage run before the one it needs, or with too little data
├── LogError             the prediction log
├── StorageError         a file or folder that cannot be written
└── CancelledError       a long computation that its user has cancelled
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

ClinicalFault = Literal[
    "no such feature", "ambiguous", "no number", "out of range", "none of its categories"
]
"""Kinds of faults of a clinical value."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Find the name most like one: by spelling, or by a word of four letters or more."""
    spelt = {each.casefold(): each for each in known}
    if close := get_close_matches(name.casefold(), spelt, 1):
        return spelt[close[0]]
    words = _words(name)
    return next((each for key, each in spelt.items() if words & _words(key)), None)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W_]{4,}", name.casefold()))


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """Remedy for a name that is not known.

    Args:
        name: what was given.
        known: what could have been meant; the name most like it is offered, if one is.
        otherwise: where or what the known names are.
    """
    near = nearest(name, known)
    return f"Did you mean {near}? {otherwise}" if near else otherwise


class CxrError(Exception):
    """Base of every error that a user can fix.

    Args:
        message: what is wrong, one sentence without a full stop.
        field: the input, column, parameter or file at fault.
        remedy: what to do, one sentence without a full stop.
    """

    def __init__(self, message: str, *, field: str = "", remedy: str = "") -> None:
        self.message, self.field, self.remedy = message, field, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.field}: {self.message}" if self.field else self.message
        text = f"{text}. {self.remedy}." if self.remedy else f"{text}."
        return " ".join(text.split())


class TaskError(CxrError):
    """A task file that is incomplete or invalid."""


class ParamsError(CxrError):
    """A parameter that is unknown, of the wrong type or out of range."""


class DataNotFoundError(CxrError):
    """A source whose files are missing."""


class InputError(CxrError):
    """An invalid input of a user."""


class RadiographError(InputError):
    """A file that is not a readable radiograph."""


class UndecodedError(RadiographError):
    """A file whose decoding took too long or ended its process: by its own fault, or since the
    machine was busy."""


class ClinicalError(InputError):
    """A clinical value that is unknown, out of range or of the wrong type.

    Args:
        message, field, remedy: as of every `CxrError`; the message may quote the value.
        kind: what is wrong, without the value, so that faults can be counted.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: ClinicalFault = "no such feature",
        field: str = "",
        remedy: str = "",
    ) -> None:
        super().__init__(message, field=field, remedy=remedy)
        self.kind: ClinicalFault = kind


class NoteError(InputError):
    """A note that cannot be read."""


class ManifestError(InputError):
    """A table of studies with a missing column, a bad row or a bad label."""


class WeightsError(CxrError):
    """Pretrained weights that are unavailable or do not fit the network."""


class BundleError(CxrError):
    """A bundle that is damaged, incomplete or of another kind."""


class StageError(CxrError):
    """A stage that was run before the one it needs, or with too little data."""


class LogError(CxrError):
    """A prediction log that cannot be opened, read or written."""


class StorageError(CxrError):
    """A file or folder that cannot be written: permissions, a full disk, an impossible name."""


class CancelledError(CxrError):
    """A long computation that its user has cancelled."""
