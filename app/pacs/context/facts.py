"""Facts: one value or text about one patient at one time, as a source tells it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from cxr_mm.core.errors import InputError

NOTE = "note"
"""Code of a clinical note in tables; other sources name notes by LOINC code."""
LONGEST_ID, LONGEST_CODE, LONGEST_UNIT = 64, 64, 32
LONGEST_VALUE = 20_000
HL7_TIME = re.compile(
    r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)?(\d\d)?(?:\.\d{1,6})?([+-]\d{4})?", re.ASCII
)


class ContextError(InputError):
    """A file, message or answer with clinical context that cannot be read."""


@dataclass(frozen=True)
class Fact:
    """One value.

    Args:
        code: LOINC code, name of a clinical feature, or `note`.
        value: as the source writes it; empty where the source takes an earlier one back.
        unit: as the source writes it.
        at: when it was measured or written, with UTC offset.
        patient_id: empty where the source names an accession number alone.
        accession: accession number of the study that it belongs to, if the source names one.
    """

    code: str
    value: str
    unit: str
    at: datetime
    patient_id: str = ""
    accession: str = ""


@dataclass
class Reading:
    """What a file or message gave.

    Args:
        facts: that can be used.
        dropped: reason of each that cannot.
    """

    facts: list[Fact] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def add(self, fact: Fact | str) -> None:
        """Add a fact, or why one is dropped."""
        if isinstance(fact, str):
            self.dropped.append(fact)
        elif fault := fault_of(fact):
            self.dropped.append(fault)
        else:
            self.facts.append(fact)

    def extend(self, facts: Iterable[Fact | str]) -> None:
        """Add several."""
        for fact in facts:
            self.add(fact)


def fault_of(fact: Fact) -> str:
    """Why a fact cannot be used; empty where it can."""
    texts = (fact.patient_id, fact.accession, fact.code, fact.unit)
    if not fact.patient_id and not fact.accession:
        return "no patient id and no accession number"
    if not fact.code:
        return "no code"
    if not all(text.isprintable() for text in texts):
        return "unprintable characters"
    if max(len(fact.patient_id), len(fact.accession)) > LONGEST_ID:
        return "id too long"
    if len(fact.code) > LONGEST_CODE or len(fact.unit) > LONGEST_UNIT:
        return "code or unit too long"
    if len(fact.value) > LONGEST_VALUE:
        return "value too long"
    return ""


def moment(text: str, zone: tzinfo) -> datetime | str:
    """A time of HL7 v2 (`202603011200+0100`) or ISO 8601, or why it is none.

    Args:
        zone: of a time without an offset.
    """
    text = text.strip()
    if not text:
        return "no time"
    if text.isdigit() and len(text) == 8:
        return "no time of day"
    try:
        if match := HL7_TIME.fullmatch(text):
            return _hl7(match, zone)
        if len(text) == 10:
            datetime.fromisoformat(text)
            return "no time of day"
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        return "unreadable time"


def _hl7(match: re.Match[str], zone: tzinfo) -> datetime:
    numbers = [int(group or 0) for group in match.groups()[:6]]
    offset = match[7]
    if offset:
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    year, month, day, hour, minute, second = numbers
    return datetime(year, month, day, hour, minute, second, tzinfo=zone).astimezone(UTC)
