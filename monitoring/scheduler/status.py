"""Status: newest verdicts, overdue windows and the current runner of each task."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Row, func, select

from cxr_mm.core.templates import render
from cxr_mm.prediction_log.database import database_errors
from cxr_mm.prediction_log.spool import spool_folder
from monitoring.scheduler.cron import Cron
from monitoring.scheduler.state import RUNNERS, WAITING_ALERTS, WINDOWS, State, moment_of

MOST_COUNTED = 10_000
"""Overdue windows of which more are not counted."""


def status(state: State, log: str, now: datetime | None = None) -> dict[str, Any]:
    """Collect the state of every task, and of spooled records, as plain values.

    Args:
        state: the database.
        log: its URL.
        now: current time.

    Raises:
        LogError: the database cannot be read.
    """
    moment = now or datetime.now(UTC)
    with database_errors(state.url), state.engine.connect() as connection:
        runners = connection.execute(select(RUNNERS).order_by(RUNNERS.c.task)).all()

        def at_work(task: str) -> list[str]:
            live = (WINDOWS.c.task == task) & (WINDOWS.c.expires > moment)
            query = select(WINDOWS.c.holder).where(live).order_by(WINDOWS.c.until)
            return list(connection.scalars(query))

        def newest(task: str, status: str) -> Row[Any] | None:
            mine = select(WINDOWS).where(WINDOWS.c.task == task, WINDOWS.c.status == status)
            order = mine.order_by(WINDOWS.c.until.desc(), WINDOWS.c.finished.desc())
            return connection.execute(order.limit(1)).first()

        def count(task: str, status: str) -> int:
            mine = (WINDOWS.c.task == task) & (WINDOWS.c.status == status)
            return connection.scalar(select(func.count()).select_from(WINDOWS).where(mine)) or 0

        grouped = select(WAITING_ALERTS.c.task, func.count()).group_by(WAITING_ALERTS.c.task)
        waiting = {row.task: row[1] for row in connection.execute(grouped)}
        tasks = {
            row.task: _of_task(row, newest, count, moment)
            | {"waiting_alerts": waiting.get(row.task, 0), "at_work": at_work(row.task)}
            for row in runners
        }
    return {"now": moment_of(moment), "tasks": tasks, "spooled": spooled(spool_folder(log))}


def spooled(folder: Path) -> int:
    """Records and outcomes that wait in the spool; whoever has its files keeps them."""
    return sum(
        sum(1 for line in path.read_bytes().splitlines() if line) for path in folder.glob("*.jsonl")
    )


def status_text(facts: dict[str, Any]) -> str:
    """Format the facts for people."""
    return render("monitoring_status.txt", facts=facts)


def _of_task(
    row: Row[Any],
    newest: Callable[[str, str], Row[Any] | None],
    count: Callable[[str, str], int],
    now: datetime,
) -> dict[str, Any]:
    done, failed = newest(row.task, "done"), newest(row.task, "failed")
    ends = [each.until for each in (done, failed) if each is not None]
    cron = Cron(row.cron, row.timezone) if row.cron else None
    overdue = cron.windows(max(ends), now) if cron and ends else iter(())
    return {
        "latest": _window(done),
        "latest_failure": _window(failed),
        "counts": {each: count(row.task, each) for each in ("done", "failed", "waiting")},
        "cron": row.cron,
        "timezone": row.timezone,
        "next_window_ends": moment_of(cron.after(now)) if cron else None,
        "overdue": sum(1 for _ in islice(overdue, MOST_COUNTED)) + count(row.task, "waiting"),
    }


def _window(row: Row[Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    verdict = row.verdict if row.status == "done" else {}
    return {
        "since": moment_of(row.since),
        "until": moment_of(row.until),
        "digest": row.digest,
        "status": verdict.get("status", row.status),
        "headline": verdict.get("headline"),
        "message": row.message,
        "folder": row.folder,
        "finished": moment_of(row.finished),
        "attempts": row.attempts,
    }
