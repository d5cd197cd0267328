"""Which facts a model gets: of each feature the latest before the study, within a bounded age."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.pacs.context.facts import NOTE, Fact
from app.pacs.context.units import converted
from cxr_mm.core.errors import ClinicalError
from cxr_mm.core.task import ClinicalFeature, Task

NUMBER = re.compile(r"([<>≤≥]=?)?\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?)", re.ASCII)
LONGEST_NUMBER = 40
QUOTED = re.compile(r""" (?:'[^']*'|"[^"]*")""")


@dataclass(frozen=True)
class Context:
    """What is known of a study beside its image.

    Args:
        clinical: feature → value as text, in the task's unit.
        note: empty without one.
        warnings: what was left out and why, for a person.
        dropped: the same without names and values, to be counted.
        missing: what the task names by LOINC code and nothing was found for.
    """

    clinical: dict[str, str] = field(default_factory=dict)
    note: str = ""
    warnings: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of what the model gets, hexadecimal; empty for nothing."""
        if not self.clinical and not self.note:
            return ""
        text = json.dumps([sorted(self.clinical.items()), self.note])
        return hashlib.sha256(text.encode()).hexdigest()


NO_CONTEXT = Context()


def wants_context(task: Task) -> bool:
    """Whether the task has a clinical feature, or a note."""
    return task.note is not None or bool(task.clinical)


def choose(task: Task, facts: Sequence[Fact], study: datetime, most_hours: float) -> Context:
    """Choose a task's values among the facts about one patient.

    Of facts of the same time the one that arrived last counts, so that a correction replaces what
    it corrects, and one without a value takes it back.

    Args:
        facts: in the order of their arrival.
        study: when the study was made; later facts are left out.
        most_hours: age beyond which a fact is left out.
    """
    chosen = _Choice(study, study - timedelta(hours=most_hours))
    clinical = {
        feature.name: value
        for feature in task.clinical
        if (value := chosen.value(feature, facts)) is not None
    }
    note = chosen.note(task, facts) if task.note else ""
    return Context(
        clinical, note, tuple(chosen.warnings), tuple(chosen.dropped), tuple(chosen.missing)
    )


class _Choice:
    def __init__(self, study: datetime, earliest: datetime) -> None:
        self._study, self._earliest = study, earliest
        self.warnings: list[str] = []
        self.dropped: list[str] = []
        self.missing: list[str] = []

    def value(self, feature: ClinicalFeature, facts: Iterable[Fact]) -> str | None:
        codes = {feature.name, *feature.loinc}
        for fact in self._in_time(feature.name, (f for f in facts if f.code in codes)):
            try:
                return _in_unit(feature, fact)
            except ClinicalError as fault:
                self._drop(feature.name, f"{fault.message}. {fault.remedy}", fault.message)
        if feature.loinc:
            self.missing.append(feature.name)
        return None

    def note(self, task: Task, facts: Iterable[Fact]) -> str:
        codes = {NOTE, *(task.note.loinc if task.note else ())}
        found = self._in_time(NOTE, (f for f in facts if f.code in codes))
        if not found and task.note and task.note.loinc:
            self.missing.append(NOTE)
        return found[0].value if found else ""

    def _in_time(self, name: str, facts: Iterable[Fact]) -> list[Fact]:
        """Facts that count, the latest first."""
        by_time: dict[datetime, Fact] = {}
        late = old = 0
        for fact in facts:
            if fact.at > self._study:
                late += 1
            elif fact.at < self._earliest:
                old += 1
            else:
                by_time[fact.at] = fact
        counting = [by_time[at] for at in sorted(by_time, reverse=True) if by_time[at].value]
        for number, reason in ((late, "later than the study"), (old, "too old")):
            if number and (number == late or not counting):
                self._drop(name, f"{number} {reason}", reason)
        return counting

    def _drop(self, name: str, text: str, reason: str) -> None:
        self.warnings.append(f"context: {name}: left out: {text}")
        self.dropped.append(QUOTED.sub("", reason))


def _in_unit(feature: ClinicalFeature, fact: Fact) -> str:
    """A fact's value in the feature's unit, as text that the clinical check reads.

    Raises:
        ClinicalError: it is no number, or its unit cannot be converted.
    """
    if feature.type == "category":
        return fact.value
    text = fact.value.strip()
    match = NUMBER.fullmatch(text) if len(text) <= LONGEST_NUMBER else None
    if match is None:
        raise ClinicalError(
            "no number", kind="no number", field=feature.name, remedy="Send a number with a unit"
        )
    number = converted(float(match[2]), fact.unit, feature.unit, feature.name)
    return f"{match[1] or ''}{number!r}"
