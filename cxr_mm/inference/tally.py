"""Tally of many studies: what was read, answered and left out, for the end of a command."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cxr_mm.core.task import Task
from cxr_mm.core.types import Frozen, plural
from cxr_mm.data.clinical import check_clinical, expected_value
from cxr_mm.data.sources.losses import Dropped, by_reason, describe_reasons, joined
from cxr_mm.data.studies import LOST_IMAGE, BadRow, header_left_out
from cxr_mm.inference.predictor import EncodedAnswer

HEADER = "header values without --use-header"


class TallyReport(Frozen):
    """What a tally says, of one part of a table or of several.

    Args:
        predicted, images, unchecked: as of `Tally`.
        parts: heading → counts by reason, as of `by_reason`.
    """

    predicted: int
    images: int
    unchecked: str
    parts: dict[str, Any]

    @property
    def failed(self) -> int:
        """Number of studies that were not answered."""
        return int(self.parts["not answered"]["count"])

    def plus(self, other: "TallyReport") -> "TallyReport":
        """Both together; examples are those of the first, then of the second."""
        return TallyReport(
            predicted=self.predicted + other.predicted,
            images=self.images + other.images,
            unchecked=self.unchecked or other.unchecked,
            parts={
                heading: joined(part, other.parts[heading]) for heading, part in self.parts.items()
            },
        )

    def lines(self) -> list[str]:
        """The counts by reason with examples, for a person."""
        total = self.predicted + self.failed
        return [
            f"{plural(total, 'study')} read, {self.predicted:,} answered, {self.failed:,} not",
            *(
                f"{heading}: {line}"
                for heading, counted in self.parts.items()
                for line in describe_reasons(counted)
            ),
            *(
                [f"{self.unchecked} ({plural(self.images, 'image')})"]
                if self.unchecked and self.images
                else []
            ),
        ]


@dataclass
class Tally:
    """What became of the studies of a table.

    Args:
        task: whose clinical values they have.
        unchecked: what to say where images were used: `Bundle.unchecked`.
        predicted: number of studies that were answered.
        images: number of those with an image that the model used.
        bad: the others.
        unknown: values of answered studies that could not be used; the reason begins with the
            clinical feature.
        header: answered studies whose header says what was left out.
        lost: answered studies whose image could not be read.
    """

    task: Task
    unchecked: str = ""
    predicted: int = 0
    images: int = 0
    bad: list[BadRow] = field(default_factory=list)
    unknown: list[Dropped] = field(default_factory=list)
    header: list[Dropped] = field(default_factory=list)
    lost: list[Dropped] = field(default_factory=list)

    def answered(self, answers: Iterable[EncodedAnswer | BadRow]) -> Iterator[EncodedAnswer]:
        """Count answers as they pass; bad rows are kept back."""
        for answer in answers:
            self.add(answer)
            if not isinstance(answer, BadRow):
                yield answer

    def add(self, answer: EncodedAnswer | BadRow) -> None:
        """Count an answer, or a study that has none."""
        if isinstance(answer, BadRow):
            self.bad.append(answer)
            return
        study = answer.study
        self.predicted += 1
        self.images += "image" in answer.prediction.modalities
        for fault in check_clinical(self.task.clinical, study.clinical).faults:
            self.unknown.append(Dropped(study.study_id, f"{fault.field} {fault.kind}"))
        if header_left_out(study):
            self.header.append(Dropped(study.study_id, HEADER))
        for warning in study.warnings:
            if warning.startswith(LOST_IMAGE):
                self.lost.append(Dropped(study.study_id, warning.removeprefix(LOST_IMAGE)))

    def report(self) -> TallyReport:
        """The counts by reason, each with the first examples."""
        expected = {feature.name: expected_value(feature) for feature in self.task.clinical}
        parts = {
            "not answered": [Dropped(row.study_id, row.kind or row.reason) for row in self.bad],
            "answered without the image": self.lost,
            "taken as unknown": self.unknown,
            "not used": self.header,
        }
        return TallyReport(
            predicted=self.predicted,
            images=self.images,
            unchecked=self.unchecked,
            parts={heading: by_reason(dropped, expected) for heading, dropped in parts.items()},
        )

    def lines(self) -> list[str]:
        """The counts by reason with examples, for a person."""
        return self.report().lines()
