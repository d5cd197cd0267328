"""Notice: content of an alert about one window; names of columns and figures, no ids, no values."""

from datetime import datetime
from typing import Literal, Self

from pydantic import AwareDatetime, Field

from cxr_mm.core.record import random_id
from cxr_mm.core.types import Frozen
from cxr_mm.core.verdict import Level, Status, Verdict
from monitoring.scheduler.cron import Window

MOST_REASONS = 10


class Notice(Frozen):
    """Alert about one window; status `failed`: its report could not be made."""

    notice_id: str = Field(default_factory=random_id)
    """The same in every attempt, so that a receiver can drop repeats."""
    task: str
    digest: str
    status: Status | Literal["failed"]
    headline: str
    since: AwareDatetime
    until: AwareDatetime
    n: int = 0
    n_labelled: int = 0
    reasons: tuple[dict[str, str], ...] = ()
    """`drift`, `name`, `title`, `level` and `text` of each reason, without its figures."""

    @classmethod
    def of_verdict(cls, verdict: Verdict, window: Window) -> Self:
        """Build the notice of a verdict."""
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
                reason.model_dump(exclude={"score", "limit"})
                for reason in verdict.reasons[:MOST_REASONS]
            ),
        )

    @classmethod
    def of_failure(cls, task: str, digest: str, window: Window) -> Self:
        """Build the notice of a failed report, without its message, which may be private."""
        return cls(
            task=task,
            digest=digest,
            status="failed",
            headline="the report could not be made: python -m monitoring status says why",
            since=window.since,
            until=window.until,
        )

    def at_least(self, least: Level) -> Self:
        """Copy in which levels below `least` count as ok."""
        if least == "warn":
            return self
        reasons = tuple(r for r in self.reasons if r["level"] == "alarm")
        status = "ok" if self.status == "warn" else self.status
        return self.model_copy(update={"status": status, "reasons": reasons})

    @property
    def content_key(self) -> str:
        """Key of deduplication: status, model and reasons."""
        if self.status == "ok":
            return self.status
        moved = sorted({f"{r['drift']}:{r['name']}" for r in self.reasons})
        return " ".join([self.status, self.digest, *moved])

    @property
    def subject(self) -> str:
        """Subject line."""
        word = self.status.upper().replace("_", " ")
        return f"{word} {self.task}: {' '.join(self.headline.split())}"

    @property
    def text(self) -> str:
        """Plain text for people."""
        lines = [self.subject, "", f"Window: {_utc(self.since)} to {_utc(self.until)}"]
        if self.status != "failed":
            lines.append(f"Studies: {self.n}, of which {self.n_labelled} labelled")
        lines += [f"Model: {self.task}, digest {self.digest[:12]}", ""]
        lines += [f"- {r['level']}, {r['drift']} drift: {r['text']}" for r in self.reasons]
        return "\n".join(lines).strip() + "\n"


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
