"""Tally of many studies: what was read, answered and left out, for the end of a command."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.studies import BadRow, header_left_out
from cxr_mm.inference.predictor import EncodedAnswer

EXAMPLES = 3
"""Studies that are named for each reason."""


@dataclass
class Tally:
    """What became of the studies of a table.

    Args:
        task: whose clinical values they have.
        predicted: number of studies that were answered.
        bad: the others.
        unknown: clinical feature → ids of answered studies whose value could not be used.
        header: ids of answered studies whose header says what was left out.
    """

    task: Task
    predicted: int = 0
    bad: list[BadRow] = field(default_factory=list)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    header: list[str] = field(default_factory=list)

    def answered(self, answers: Iterable[EncodedAnswer | BadRow]) -> Iterator[EncodedAnswer]:
        """Count answers as they pass; bad rows are kept back."""
        for answer in answers:
            if isinstance(answer, BadRow):
                self.bad.append(answer)
            else:
                self._count(answer.study)
                yield answer

    def _count(self, study: Study) -> None:
        self.predicted += 1
        for fault in check_clinical(self.task.clinical, study.clinical).faults:
            self.unknown.setdefault(fault.field, []).append(study.study_id)
        if header_left_out(study):
            self.header.append(study.study_id)

    def lines(self) -> list[str]:
        """The counts with examples, for a person."""
        reasons: dict[str, list[str]] = {}
        for row in self.bad:
            reasons.setdefault(row.kind or row.reason, []).append(row.study_id)
        total = self.predicted + len(self.bad)
        lines = [f"{total:,} studies read, {self.predicted:,} answered, {len(self.bad):,} not"]
        lines += [f"not answered, {_named(ids)}: {reason}" for reason, ids in reasons.items()]
        lines += [
            f"{name} taken as unknown, since the value cannot be used, {_named(ids)}"
            for name, ids in self.unknown.items()
        ]
        if self.header:
            lines.append(f"header not used (--use-header uses it), {_named(self.header)}")
        return lines


def _named(ids: Sequence[str]) -> str:
    more = ", …" if len(ids) > EXAMPLES else ""
    return f"{len(ids):,} ({', '.join(ids[:EXAMPLES])}{more})"
