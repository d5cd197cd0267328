"""Erasure of a patient or study, and retention: rows redacted in place, or the oldest removed.

Each adds an entry to the audit log, which is chained as every table is. The entry names the rows
that were redacted, so that no one can redact a row in silence; it names no patient.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import Select, String, Table, and_, cast, delete, func, literal, or_, select, update
from sqlalchemy.engine import Connection

from cxr_mm.core.record import random_id
from cxr_mm.core.types import plural
from cxr_mm.prediction_log.chain import BATCH, append_rows, locked_head
from cxr_mm.prediction_log.log import PredictionLog
from cxr_mm.prediction_log.schema import (
    AUDIT_LOG,
    ERASED,
    EVENTS,
    IDENTITY,
    MOMENT,
    OUTCOMES,
    PREDICTIONS,
    aware,
    redacted_values,
)

Rows = dict[Table, list[int]]


@dataclass(frozen=True)
class ErasurePlan:
    """How many rows go, or went."""

    predictions: int
    outcomes: int
    events: int

    def __bool__(self) -> bool:
        return any((self.predictions, self.outcomes, self.events))

    def __str__(self) -> str:
        counts = {"prediction": self.predictions, "outcome": self.outcomes, "event": self.events}
        return ", ".join(plural(count, noun) for noun, count in counts.items())


def erase_patient(log: PredictionLog, patient_id: str, *, dry_run: bool = False) -> ErasurePlan:
    """Empty the predictions of a patient and the outcomes of their studies; the chain still holds.

    Of each row stay its place and link in the chain, the hash of what it held and its time. A
    prediction without a patient goes too where its study is one of theirs. A dry run only counts.

    Raises:
        LogError: the log cannot be written, or was opened without its secret.
    """
    return _erase(log, partial(_of_patient, log.hash_id(patient_id, "patient")), dry_run)


def erase_study(log: PredictionLog, study_id: str, *, dry_run: bool = False) -> ErasurePlan:
    """Empty the predictions and outcomes of one study, as `erase_patient` does.

    Raises:
        LogError: the log cannot be written, or was opened without its secret.
    """
    return _erase(log, partial(_of_study, log.hash_id(study_id)), dry_run)


def _erase(log: PredictionLog, planned: Callable[[Connection], Rows], dry_run: bool) -> ErasurePlan:
    with log.writing() as connection:
        plan = planned(connection)
        if dry_run:
            return _counted(plan)
        when = datetime.now(UTC)
        for table, positions in plan.items():
            _empty(connection, table, positions, when)
        done = {t.name: _spans_text(positions) for t, positions in plan.items() if positions}
        _record(connection, "erase", when, done, log.chain_key)
    return _cleared(log, _counted(plan))


def retain(log: PredictionLog, before: datetime, *, dry_run: bool = False) -> ErasurePlan:
    """Remove what is older than a moment, and the outcomes of studies that are then gone.

    An outcome stays as long as a prediction of its study does. Rows at the start of a chain are
    removed and leave the last one's link to go on from; those between younger rows are redacted.
    A dry run only counts.

    Raises:
        LogError: the moment has no UTC offset, the log cannot be written, or was opened without
            its secret.
    """
    aware(before)
    with log.writing() as connection:
        plan = _older(connection, before)
        if dry_run:
            return _counted(plan)
        when = datetime.now(UTC)
        done = {
            table.name: _take_away(connection, table, positions, before, when)
            for table, positions in plan.items()
            if positions
        }
        _record(connection, "retain", when, done, log.chain_key)
    return _cleared(log, _counted(plan))


def _of_study(study_hash: str, connection: Connection) -> Rows:
    tables = PREDICTIONS, OUTCOMES
    queries = {t: select(t.c.position).where(t.c.study_hash == study_hash) for t in tables}
    return _positions(connection, queries)


def _of_patient(patient_hash: str, connection: Connection) -> Rows:
    c = PREDICTIONS.c
    studies = select(c.study_hash).where(c.patient_hash == patient_hash)
    nameless = and_(c.patient_hash.is_(None), c.study_hash.in_(studies))
    queries = {
        PREDICTIONS: select(c.position).where(or_(c.patient_hash == patient_hash, nameless)),
        OUTCOMES: select(OUTCOMES.c.position).where(OUTCOMES.c.study_hash.in_(studies)),
    }
    return _positions(connection, queries)


def _older(connection: Connection, before: datetime) -> Rows:
    studies = (
        select(PREDICTIONS.c.study_hash, func.max(PREDICTIONS.c.created_at).label("newest"))
        .group_by(PREDICTIONS.c.study_hash)
        .subquery()
    )
    outcomes = OUTCOMES.outerjoin(studies, OUTCOMES.c.study_hash == studies.c.study_hash)
    unpredicted = and_(studies.c.newest.is_(None), OUTCOMES.c.recorded_at < before)
    queries = {
        PREDICTIONS: select(PREDICTIONS.c.position).where(PREDICTIONS.c.created_at < before),
        OUTCOMES: select(OUTCOMES.c.position)
        .select_from(outcomes)
        .where(or_(unpredicted, studies.c.newest < before)),
        EVENTS: select(EVENTS.c.position).where(EVENTS.c.created_at < before),
    }
    return _positions(connection, queries)


def _positions(connection: Connection, queries: dict[Table, Select[int]]) -> Rows:
    """Where the rows are that still hold something, in order, their chains locked."""
    for table in queries:
        locked_head(connection, table)
    return {
        table: list(
            connection.scalars(query.where(table.c.erased_at.is_(None)).order_by(table.c.position))
        )
        for table, query in queries.items()
    }


def _take_away(
    connection: Connection,
    table: Table,
    plan: Sequence[int],
    before: datetime,
    when: datetime,
) -> dict[str, Any]:
    """Remove rows from the start of the chain as far as all of them go, and empty the others."""
    head = locked_head(connection, table)
    position, wanted = table.c.position, set(plan)
    stays = or_(table.c.erased_at.is_(None), MOMENT[table] >= before)
    query = select(position).where(stays).order_by(position).execution_options(yield_per=BATCH)
    with connection.execute(query) as rows:
        first = next((p for p in rows.scalars() if p not in wanted), head.position + 1)
    last = (
        select(position, table.c.chain).where(position < first).order_by(position.desc()).limit(1)
    )
    anchor = connection.execute(last).one_or_none()
    connection.execute(delete(table).where(position < first))
    left = [p for p in plan if p >= first]
    _empty(connection, table, left, when)
    result = _spans_text(left)
    return (
        result
        if anchor is None
        else result | {"removed_to": anchor.position, "chain": anchor.chain}
    )


def _empty(connection: Connection, table: Table, positions: Sequence[int], when: datetime) -> None:
    position = table.c.position
    identity = literal(ERASED) + cast(position, String(20))
    values = redacted_values(table) | {IDENTITY[table].name: identity, "erased_at": when}
    for start in range(0, len(positions), BATCH):
        chosen = position.in_(positions[start : start + BATCH])
        connection.execute(update(table).where(chosen).values(values))


def _spans_text(redacted: Sequence[int]) -> dict[str, Any]:
    return {"redacted": list(_spans(redacted)), "removed_to": 0, "chain": ""}


def _spans(positions: Sequence[int]) -> Iterator[list[int]]:
    """Sorted positions as spans from and to."""
    start = 0
    for i, position in enumerate(positions):
        if i + 1 == len(positions) or positions[i + 1] != position + 1:
            yield [positions[start], position]
            start = i + 1


def _record(
    connection: Connection, act: str, when: datetime, done: dict[str, Any], key: bytes
) -> None:
    if done:
        row = {"entry_id": random_id(), "acted_at": when, "act": act, "tables": done}
        append_rows(connection, AUDIT_LOG, [row], key)


def _cleared(log: PredictionLog, gone: ErasurePlan) -> ErasurePlan:
    if gone:
        log.vacuum()
    return gone


def _counted(rows: Rows) -> ErasurePlan:
    counts = {table.name: len(positions) for table, positions in rows.items()}
    return ErasurePlan(counts["predictions"], counts["outcomes"], counts.get("events", 0))
