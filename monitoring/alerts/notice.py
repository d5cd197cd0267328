"""Notice: what an alert says of one window; names of columns and figures, no ids, no values."""

from datetime import datetime
from typing import Literal, Self

from pydantic import AwareDatetime, Field

from cxr_mm.core.record import random_id
from cxr_mm.core.types import Frozen
from cxr_mm.core.verdict import Level, Status, Verdict
from monitoring.scheduler.cron import Window

MOST_REASONS = 10


class NoticeReason(Frozen):
    """A reason of the verdict, without its figures."""

    drift: str
    name: str
    title: str
    level: Level
    text: str


class Notice(Frozen):
    """What is told of one window; `failed` is a report that could not be made."""

    notice_id: str = Field(default_factory=random_id)
    """The same in every try: a receiver that has it already may drop it."""
    task: str
    digest: str
    status: Status | Literal["failed"]
    headline: str
    since: AwareDatetime
    until: AwareDatetime
    n: int = 0
    n_labelled: int = 0
    reasons: tuple[NoticeReason, ...] = ()

    @classmethod
    def of_verdict(cls, verdict: Verdict, window: Window) -> Self:
        """What a verdict has to tell."""
        fields = NoticeReason.model_fields
        return cls(
            task=verdict.task,
            digest=verdict.digest,
            status=verdict.status,
            headline=verdict.headline,
            since=window.since,
            until=window.until,
            n=verdict.n,
            n_labelled=verdict.n_labelled,
            reasons=tuple(
                NoticeReason(**{name: getattr(reason, name) for name in fields})
                for reason in verdict.reasons[:MOST_REASONS]
            ),
        )

    @classmethod
    def of_failure(cls, task: str, digest: str, window: Window) -> Self:
        """That a report could not be made; why may name what must not leave the machine."""
        return cls(
            task=task,
            digest=digest,
            status="failed",
            headline="the report could not be made: python -m monitoring status says why",
            since=window.since,
            until=window.until,
        )

    def at_least(self, least: Level) -> Self:
        """The same, where what is below a level counts as ok."""
        if least == "warn":
            return self
        reasons = tuple(r for r in self.reasons if r.level == "alarm")
        status = "ok" if self.status == "warn" else self.status
        return self.model_copy(update={"status": status, "reasons": reasons})

    @property
    def gist(self) -> str:
        """Equal for two notices that say the same: status, what moved, and of which model."""
        if self.status == "ok":
            return self.status
        moved = sorted({f"{r.drift}:{r.name}" for r in self.reasons})
        return " ".join([self.status, self.digest, *moved])

    @property
    def subject(self) -> str:
        """One line."""
        word = self.status.upper().replace("_", " ")
        return f"{word} {self.task}: {' '.join(self.headline.split())}"

    @property
    def text(self) -> str:
        """What a person reads."""
        lines = [self.subject, "", f"Window: {_utc(self.since)} to {_utc(self.until)}"]
        if self.status != "failed":
            lines.append(f"Studies: {self.n}, of which {self.n_labelled} labelled")
        lines += [f"Model: {self.task}, digest {self.digest[:12]}", ""]
        lines += [f"- {r.level}, {r.drift} drift: {r.text}" for r in self.reasons]
        return "\n".join(lines).strip() + "\n"


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
