"""The clinical transform: values as entered → checked values → the input vector of the model.

A number becomes its standard score and a flag "missing"; a category becomes one column per value
and a flag "missing". Only the flag marks a missing value, never a number that could be real.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.errors import ClinicalError, did_you_mean
from cxr_mm.core.study import ClinicalValue
from cxr_mm.core.task import ClinicalFeature
from cxr_mm.data.tables import MISSING, is_missing

UNKNOWN = MISSING | {"unknown", "none", "?"}
PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
AMBIGUOUS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
GROUPED = re.compile(r"[+-]?\d{1,3}(?:([.,])\d{3})(?:\1\d{3})*(?!\1)([.,])\d+", re.ASCII)
LIMIT = re.compile(r"([<>≤≥]=?)\s*(.+)")
AGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([YMWD]?)\s*", re.ASCII | re.IGNORECASE)
PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}
"""DICOM's units of age (PS3.5 6.2, AS) in a year."""
YEARS = "a"
"""UCUM's year."""
LONGEST_CELL = 40
"""Characters of a cell that a message repeats."""
MAX_SCORE = 5.0  # limits the effect of a value in the wrong unit


class ClinicalValues(dict[str, ClinicalValue]):
    """Checked values of every feature of a task, in its order."""

    features: tuple[ClinicalFeature, ...] = ()
    """The features that they were checked against."""
    faults: tuple[ClinicalError, ...] = ()
    """Why a value that was given counts as unknown, by feature."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """The faults as sentences for a person who reads the prediction."""
        return tuple(
            f"{fault.field}: {fault.message}, so it counts as unknown. {fault.remedy}"
            for fault in self.faults
        )


def check_clinical(
    features: Sequence[ClinicalFeature], values: Mapping[str, Any]
) -> ClinicalValues:
    """Check values as a person or a file gives them; checked ones are returned as they are.

    A value that cannot be used (no number, out of range, an unknown category) is unknown, and is
    named among the faults: no door refuses a study for one cell, and none clears it in silence.

    Args:
        features: the features of the task.
        values: name, or heading as `by_feature` takes it → number, text or None; empty text and
            `unknown` mean not known.

    Returns:
        A value for every feature in the task's order, None where not known; and the faults.

    Raises:
        ClinicalError: as `by_feature`.
    """
    if isinstance(values, ClinicalValues) and values.features == tuple(features):
        return values
    given = by_feature(features, values)
    checked, faults = ClinicalValues(), []
    for feature in features:
        name = feature.name
        try:
            checked[name] = _check(feature, given.get(name))
        except ClinicalError as fault:
            checked[name] = None
            faults.append(fault)
    checked.features, checked.faults = tuple(features), tuple(faults)
    return checked


def by_feature(features: Sequence[ClinicalFeature], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values under the names of their features; the heading of a feature's column does as well.

    Raises:
        ClinicalError: no feature is called so, several have this heading and none this name, or one
            is given by name and heading.
    """
    named = {feature.name: feature.name for feature in features}
    given: dict[str, Any] = {}
    for heading, value in values.items():
        owners = [named[heading]] if heading in named else _with_heading(features, heading)
        if len(owners) != 1:
            raise _no_one_feature(features, heading, owners)
        if owners[0] in given:
            raise ClinicalError(
                "given twice, by its name and by its column's heading",
                field=f"{owners[0]}, {heading}",
                remedy="Give one value",
            )
        given[owners[0]] = value
    return given


def _with_heading(features: Sequence[ClinicalFeature], heading: str) -> list[str]:
    return [f.name for f in features if f.column and f.column == heading]


def _no_one_feature(
    features: Sequence[ClinicalFeature], heading: str, owners: Sequence[str]
) -> ClinicalError:
    if owners:
        return ClinicalError(
            f"the column of several clinical features ({', '.join(owners)})",
            kind="ambiguous",
            field=heading,
            remedy="Give the feature's own name",
        )
    known = [
        f.name if f.column in ("", f.name) else f"{f.name} (or {f.column!r})" for f in features
    ]
    return ClinicalError(
        "no such clinical feature",
        field=str(heading),
        remedy=did_you_mean(
            str(heading),
            [name for f in features for name in (f.name, f.column) if name],
            f"This task knows {', '.join(known) or 'none'}",
        ),
    )


def _check(feature: ClinicalFeature, value: Any) -> ClinicalValue:
    if is_missing(value):
        return None
    text = str(value).strip()
    if text.lower() in UNKNOWN:
        return None
    return _number(feature, text) if feature.type == "number" else _category(feature, text)


def _number(feature: ClinicalFeature, text: str) -> float | None:
    number = _read_number(feature, text)
    if number is None:
        return None
    low, high = feature.minimum, feature.maximum
    if low is None or high is None or not low <= number <= high:
        raise ClinicalError(
            f"{_shortened(text)} is out of range",
            kind="out of range",
            field=feature.name,
            remedy=_expected(feature),
        )
    return number


def _read_number(feature: ClinicalFeature, text: str) -> float | None:
    """Read a number as tables write it; None where a limit counts as unknown.

    A comma is a decimal one unless it may as well separate thousands.
    """
    sign, text = (match[1], match[2]) if (match := LIMIT.fullmatch(text)) else ("", text)
    if sign and feature.limits == "unknown":
        return None
    if feature.unit == YEARS and isinstance(age := age_in_years(text), float):
        return age
    if match := GROUPED.fullmatch(text):
        whole, _, rest = text.rpartition(match[2])
        text = whole.replace(match[1], "") + "." + rest
    elif DECIMAL_COMMA.fullmatch(text) and not AMBIGUOUS.fullmatch(text):
        text = text.replace(",", ".")
    if not PLAIN.fullmatch(text):
        why = " (a decimal comma, or thousands?)" if AMBIGUOUS.fullmatch(text) else ""
        raise ClinicalError(
            f"{_shortened(text)!r} is no number{why}",
            kind="no number",
            field=feature.name,
            remedy=_expected(feature),
        )
    return float(text)


def age_in_years(value: object) -> object:
    """Years from `58`, `058Y`, `018M`, `006W` or `012D`; anything else unchanged."""
    if not isinstance(value, str) or not (match := AGE.fullmatch(value)):
        return value
    return float(match[1]) / PER_YEAR[match[2].upper()]


def _category(feature: ClinicalFeature, text: str) -> str:
    spelt = {c.lower(): c for c in feature.categories}
    spelt |= {alias.lower(): c for alias, c in feature.aliases.items()}
    if text.lower() not in spelt:
        raise ClinicalError(
            f"{_shortened(text)!r} is none of its categories",
            kind="none of its categories",
            field=feature.name,
            remedy=_expected(feature),
        )
    return spelt[text.lower()]


def _shortened(cell: str) -> str:
    return cell if len(cell) <= LONGEST_CELL else f"{cell[:LONGEST_CELL]}…"


def _expected(feature: ClinicalFeature) -> str:
    return f"Give {expected_value(feature)}, or leave it empty"


def expected_value(feature: ClinicalFeature) -> str:
    """Describe the values of a feature."""
    if feature.type == "category":
        return f"one of {', '.join(feature.categories)}"
    return f"a number from {feature.minimum:g} to {feature.maximum:g}{feature.unit_suffix}"


class ClinicalTransform:
    """Checked values → vector; fitted on training studies only.

    Args:
        features: the features, in the task's order.
        mean, scale: per number, the mean and standard deviation of the training studies.
        seen: per number, their lowest and highest value; per category, those that occur.
    """

    def __init__(
        self,
        features: Sequence[ClinicalFeature],
        mean: Mapping[str, float],
        scale: Mapping[str, float],
        seen: Mapping[str, Sequence[float | str]],
    ) -> None:
        self.features = tuple(features)
        self.mean, self.scale, self.seen = dict(mean), dict(scale), dict(seen)

    @classmethod
    def fit(cls, features: Sequence[ClinicalFeature], frame: pd.DataFrame) -> Self:
        """Learn from the checked values of `frame` (plain feature names)."""
        mean: dict[str, float] = {}
        scale: dict[str, float] = {}
        seen: dict[str, list[float | str]] = {}
        for feature in features:
            known = frame[feature.name].dropna()
            if feature.type == "category":
                seen[feature.name] = [c for c in feature.categories if known.eq(c).any()]
                continue
            numbers = known.to_numpy(dtype=float)
            mean[feature.name] = float(numbers.mean()) if len(numbers) else 0.0
            deviation = float(numbers.std()) if len(numbers) else 0.0
            scale[feature.name] = deviation if deviation > 0 else 1.0
            seen[feature.name] = (
                [float(numbers.min()), float(numbers.max())] if len(numbers) else []
            )
        return cls(features, mean, scale, seen)

    def unseen(self, values: Mapping[str, ClinicalValue]) -> list[str]:
        """Describe which checked values are outside those of the training studies."""
        known = ((f, values.get(f.name), self.seen[f.name]) for f in self.features)
        return [
            f"{feature.name}: {_text(value)}{feature.unit_suffix} {_difference(feature, seen)}"
            for feature, value, seen in known
            if value is not None and not _within(feature, value, seen)
        ]

    def uninformative(self) -> dict[str, str]:
        """Say of each feature that could teach nothing why: `no value` or `always 37`."""
        reasons: dict[str, str] = {}
        for feature in self.features:
            values = dict.fromkeys(self.seen[feature.name])
            if len(values) < 2:
                reasons[feature.name] = f"always {_text(*values)}" if values else "no value"
        return reasons

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the vector's columns."""
        return tuple(name for feature in self.features for name in _columns(feature))

    @property
    def owners(self) -> tuple[str, ...]:
        """For each column, the clinical feature it belongs to."""
        return tuple(feature.name for feature in self.features for _ in _columns(feature))

    def apply(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        """Checked values, one row a study → float32 (N, T); never NaN."""
        blocks = [self._block(feature, frame[feature.name]) for feature in self.features]
        if not blocks:
            return np.zeros((len(frame), 0), dtype=np.float32)
        return np.concatenate(blocks, axis=1).astype(np.float32)

    def _block(self, feature: ClinicalFeature, column: "pd.Series[Any]") -> NDArray[np.float64]:
        missing = column.isna().to_numpy(bool)
        if feature.type == "category":
            hot = [column.eq(c).fillna(False).to_numpy(bool) for c in feature.categories]
            return np.stack([*hot, missing], axis=1).astype(float)
        score = (column.to_numpy(dtype=float) - self.mean[feature.name]) / self.scale[feature.name]
        score = np.clip(np.where(missing, 0.0, score), -MAX_SCORE, MAX_SCORE)
        return np.stack([score, missing.astype(float)], axis=1)

    def to_json(self) -> dict[str, Any]:
        """The fitted parameters."""
        return {"mean": self.mean, "scale": self.scale, "seen": self.seen}

    @classmethod
    def from_json(cls, features: Sequence[ClinicalFeature], params: dict[str, Any]) -> Self:
        """The transform that `to_json` described, for the same features."""
        return cls(features, params["mean"], params["scale"], params["seen"])


def _columns(feature: ClinicalFeature) -> list[str]:
    if feature.type == "number":
        return [feature.name, f"{feature.name}?"]
    return [*(f"{feature.name}={c}" for c in feature.categories), f"{feature.name}?"]


def _within(feature: ClinicalFeature, value: float | str, seen: Sequence[float | str]) -> bool:
    if feature.type == "category" or not seen:
        return value in seen
    return float(seen[0]) <= float(value) <= float(seen[-1])


def _difference(feature: ClinicalFeature, seen: Sequence[float | str]) -> str:
    if feature.type == "category" or not seen:
        return "was not among those trained on"
    return f"is outside the {_text(seen[0])} to {_text(seen[-1])} trained on"


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
