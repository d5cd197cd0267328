"""Columns of a table: what each is taken for, by its name and its cells."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cxr_mm.core.errors import ClinicalError, ManifestError
from cxr_mm.core.task import VIEWS, ClinicalFeature
from cxr_mm.data.clinical import check_clinical

PRESENT, ABSENT, UNCERTAIN = {"1", "1.0"}, {"0", "0.0"}, {"-1", "-1.0"}
MOST_CATEGORIES, FEWEST_NUMBERS, NUMERIC_SHARE, LONG_TEXT = 12, 7, 0.9, 30
"""Distinct values of a category at most; of a number at least; share of cells that read as numbers;
letters on average from which a text is a note."""
Kind = Literal["finding", "number", "category", "note", "left out"]
VIEW_WORDS = {"frontal", "lateral", "lat", "l", *(view.casefold() for view in VIEWS)}
"""View positions as tables have them, in lower case."""
WORDS = (
    ("1", "yes", "y", "true", "positive", "present", "ja", "j"),
    ("0", "no", "n", "false", "negative", "absent", "nein"),
    ("-1", "uncertain", "unclear", "unklar"),
)
"""Words for present, absent and without information, in lower case."""
USUAL = {
    "age": ("alter", "age_years", "patient_age", "alter_jahre"),
    "sex": ("geschlecht", "gender", "patient_sex"),
}
"""Feature as subgroups and DICOM headers name it → other names of its column."""


@dataclass(frozen=True)
class Column:
    """A column of the table and what it was taken for.

    Args:
        column: its name in the table.
        kind: what it becomes in the task.
        about: comment beside it: what the table has, or why it is left out.
        values: of a category its categories; of a finding the words for present, absent and without
            information.
        low, high: proposed limits of a number.
    """

    column: str
    kind: Kind
    about: str
    values: tuple[Any, ...] = ()
    low: float = math.nan
    high: float = math.nan

    @property
    def name(self) -> str:
        """Identifier in the task; age and sex have their usual names."""
        plain = plain_name(self.column)
        usual = next((name for name, others in USUAL.items() if plain in others), plain)
        return usual if usual[:1].isalpha() else f"x_{usual}"

    @property
    def is_age(self) -> bool:
        """Whether the name says that it is an age in years."""
        return self.name == "age"


def plain_name(text: str) -> str:
    """Lower case letters of English, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", _ascii(text).lower()).strip("_")


def is_view(counts: Counter[str]) -> bool:
    """Whether every cell is a view position."""
    return bool(counts) and all(value.casefold() in VIEW_WORDS for value in counts)


def guess_column(name: str, cells: list[str], findings: Sequence[str]) -> Column:
    """What a column is taken for, by its known cells."""
    counts = Counter(cells)
    about = f"{len(cells)} known, {len(counts)} different"
    if name in findings or (not findings and _is_label(counts)):
        return Column(name, "finding", _shares(counts), _words(name, counts))
    if not counts:
        return Column(name, "left out", "no value")
    if is_view(counts):
        return Column(name, "left out", f"{_shares(counts)}: a view")
    numbers = _numbers(name, cells)
    if len(numbers) >= NUMERIC_SHARE * len(cells) and len(set(numbers)) >= FEWEST_NUMBERS:
        unread = (
            f", {len(cells) - len(numbers)} are no numbers" if len(numbers) < len(cells) else ""
        )
        about = f"{min(numbers):g} to {max(numbers):g}{unread}"
        return Column(name, "number", about, (), *_limits(numbers))
    categories = _categories(counts)
    if 2 <= len(categories) <= MOST_CATEGORIES and len(categories) <= len(cells) / 2:
        return Column(name, "category", _shares(counts), categories)
    if sum(map(len, cells)) >= LONG_TEXT * len(cells):
        return Column(name, "note", about)
    return Column(name, "left out", f"{about}: an id, a date, or one value only")


def _is_label(counts: Counter[str]) -> bool:
    values = set(counts)
    return bool(values & PRESENT and values & ABSENT) and values <= PRESENT | ABSENT | UNCERTAIN


def _words(
    name: str, counts: Counter[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Words for present, absent and without information."""
    values = {re.sub(r"\.0+$", "", value) for value in counts}
    known = {word: kind for kind, words in enumerate(WORDS) for word in words}
    found: tuple[list[str], ...] = ([], [], [])
    for value in sorted(values):
        if value.lower() not in known:
            raise ManifestError(
                f"{value!r} means neither present nor absent",
                field=f"--finding {name}",
                remedy=f"Write it as one of {', '.join(sorted(known))}, or leave the cell empty",
            )
        found[known[value.lower()]].append(value)
    positive, negative, unknown = (tuple(words) for words in found)
    return positive or ("1",), negative or ("0",), unknown


def _numbers(name: str, cells: list[str]) -> list[float]:
    """Cells that read as numbers, as tables write them."""
    unit = "a" if Column(name, "number", "").is_age else ""
    wide = ClinicalFeature(
        name="x", title="x", type="number", unit=unit, minimum=-1e12, maximum=1e12
    )
    found = []
    for cell in cells:
        try:
            value = check_clinical([wide], {"x": cell})["x"]
        except ClinicalError:
            continue
        if isinstance(value, float):
            found.append(value)
    return found


def _limits(numbers: list[float]) -> tuple[float, float]:
    """Limits around what the table has: from 0 where nothing is below it, to twice the largest."""
    low, high = min(numbers), max(numbers)
    return (0.0 if low >= 0 else _rounded(2 * low)), _rounded(2 * high) if high > 0 else 0.0


def _rounded(value: float) -> float:
    """Rounded away from 0 to one digit."""
    step = 10.0 ** math.floor(math.log10(abs(value)))
    return math.copysign(math.ceil(abs(value) / step) * step, value)


def _categories(counts: Counter[str]) -> tuple[str, ...]:
    """Values in order of frequency; of spellings that differ in case, the most frequent."""
    spelt: dict[str, str] = {}
    for value, _ in counts.most_common():
        spelt.setdefault(value.lower(), value)
    return tuple(spelt.values())


def _shares(counts: Counter[str]) -> str:
    shown = ((" ".join(value.split())[:LONG_TEXT], n) for value, n in counts.most_common(6))
    return ", ".join(f"{value}: {count}" for value, count in shown)


def _ascii(text: str) -> str:
    """Letters of English only: `ö` as `oe`, other marks dropped."""
    for letter, plain in {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"}.items():
        text = text.replace(letter, plain).replace(letter.upper(), plain)
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
