"""The base class of every checked value, modalities and subsets, and what intervals share."""

from collections.abc import Iterable
from itertools import combinations
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from cxr_mm.core.errors import nearest


class Frozen(BaseModel):
    """A value that is checked once and cannot change; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Modality = Literal["image", "tabular", "note"]
MODALITIES: tuple[Modality, ...] = ("image", "tabular", "note")

LEVEL = 0.95
"""Coverage of every interval unless it is corrected for several."""
FEWEST_PATIENTS = 10
"""Patients from which on a figure has an interval: resamples of fewer hardly differ."""

HeaderUse = Literal["ignore", "name", "use"]
"""What becomes of features that were not given but that a DICOM header says: nothing, a warning
that they are left out, or they are used."""


def plural(number: int, noun: str) -> str:
    """A number and its noun: `1 study`, `2,000 studies`, `0 held-out images`."""
    ending = "s"
    if number == 1:
        ending = ""
    elif noun.endswith("y"):
        noun, ending = noun[:-1], "ies"
    return f"{number:,} {noun}{ending}"


AVAILABLE = "available"
"""Name, beside those of subsets, for whatever modalities each study has."""


def subset_name(modalities: Iterable[Modality]) -> str:
    """Name a subset in canonical order, as `image+note`."""
    chosen = set(modalities)
    return "+".join(m for m in MODALITIES if m in chosen)


def subsets(modalities: Iterable[Modality]) -> list[tuple[Modality, ...]]:
    """Every non-empty subset, singles first, the whole last, each in canonical order."""
    present = [m for m in MODALITIES if m in set(modalities)]
    return [c for size in range(1, len(present) + 1) for c in combinations(present, size)]


PLAINLY = {"extra_forbidden": "there is no such field", "missing": "it is missing"}
"""Pydantic's type of a fault → what people are told of it."""


def faults_of(error: ValidationError, model: type[BaseModel]) -> tuple[str, str]:
    """Field of the first fault, and a message that names every other one too.

    Args:
        error: what the model found.
        model: whose fields an unknown one is compared with.
    """
    (field, message), *others = [
        (".".join(map(str, fault["loc"])) or "top level", _plainly(fault, model))
        for fault in error.errors()
    ]
    return field, "; ".join([message, *(f"{where}: {what}" for where, what in others)])


def _plainly(fault: ErrorDetails, model: type[BaseModel]) -> str:
    plain = PLAINLY.get(fault["type"]) or str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] != "extra_forbidden":
        return plain
    *path, name = fault["loc"]
    near = nearest(str(name), _fields_at(model, path))
    return f"{plain}, did you mean {near}" if near else plain


def _fields_at(model: type[BaseModel], path: Iterable[int | str]) -> list[str]:
    """Names of the fields that a fault's path leads to; an index or a mapping's key is passed."""
    models = [model]
    for step in path:
        at_step = [
            found
            for each in models
            for name, field in each.model_fields.items()
            if step in (name, field.alias)
            for found in _models_in(field.annotation)
        ]
        models = at_step or models
    return [field.alias or name for each in models for name, field in each.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Models that a type is, or is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]
