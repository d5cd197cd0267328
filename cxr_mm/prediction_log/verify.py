"""Verification: whether every row of the log is as it was written, where it was written.

What it proves and what it cannot is in docs/prediction_log.md.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Table, func, select
from sqlalchemy.engine import Connection

from cxr_mm.core.errors import LogError
from cxr_mm.prediction_log.chain import BATCH, Head, content_of, hashed_columns, link
from cxr_mm.prediction_log.log import PredictionLog
from cxr_mm.prediction_log.schema import (
    AUDIT_LOG,
    CHAINED,
    ERASED,
    HEADS,
    IDENTITY,
    redacted_values,
)

What = Literal["changed", "removed", "inserted", "reordered", "rewritten"]


@dataclass(frozen=True)
class ChainBreak:
    """The first row at which a chain is broken.

    Args:
        table, position: where.
        what: the row is `changed`, `removed` or `reordered`; or one that the log never wrote was
            `inserted`; or the chain holds but is not the one of an earlier head: `rewritten`.
    """

    table: str
    position: int
    what: What


@dataclass(frozen=True)
class Verified:
    """What a verification found.

    Args:
        rows: table → rows that are as written.
        erased: table → how many of those were redacted by erasure or retention.
        heads: where each chain ends; keep them elsewhere, for a later verification.
        first_break: the first row that is not as written; None where all are.
    """

    rows: dict[str, int]
    erased: dict[str, int]
    heads: tuple[Head, ...]
    first_break: ChainBreak | None


@dataclass
class _Known:
    """Entries of the audit log on one table."""

    anchor: Head
    """The last row that retention removed."""
    redacted: list[tuple[int, int]] = field(default_factory=list)
    """First and last positions of redacted spans, sorted."""

    def is_redacted(self, position: int) -> bool:
        index = bisect_right(self.redacted, position, key=lambda span: span[0]) - 1
        return index >= 0 and position <= self.redacted[index][1]


def verify(log: PredictionLog, heads: Iterable[Head] = ()) -> Verified:
    """Follow every chain of a log from its start, or from where retention left it, to its end.

    Args:
        log: opened with its secret.
        heads: of earlier verifications; that nothing up to them was rewritten is checked too.

    Raises:
        LogError: the log cannot be read or was opened without its secret, or a head is from
            before what retention removed.
    """
    key, prior = log.chain_key, tuple(heads)
    rows, erased, ends = {}, {}, []
    with log.snapshot() as connection:
        known = {table.name: _Known(Head(table.name, 0, "")) for table in CHAINED}
        for table in sorted(CHAINED, key=lambda t: t is not AUDIT_LOG):
            wanted = [head for head in prior if head.table == table.name]
            walk = _Walk(connection, table, key, known[table.name], wanted)
            breaks = walk.run()
            rows[table.name], erased[table.name] = walk.rows, walk.erased
            ends.append(walk.at)
            if breaks is not None:
                return Verified(rows, erased, tuple(ends), breaks)
            if table is AUDIT_LOG:
                _learn(connection, known)
    return Verified(rows, erased, tuple(ends), None)


class _Walk:
    """One table, row by row in the order of the chain."""

    def __init__(
        self, connection: Connection, table: Table, key: bytes, known: _Known, wanted: list[Head]
    ) -> None:
        self.connection, self.table, self.key, self.known = connection, table, key, known
        self.at = known.anchor
        self.rows = self.erased = 0
        self.wanted = {head.position: head.chain for head in wanted}
        self.end = _end(connection, table)

    def run(self) -> ChainBreak | None:
        """Go as far as the chain holds."""
        if min(self.wanted, default=self.at.position) < self.at.position:
            raise LogError(
                f"retention has removed the rows up to {self.at.position}",
                field=f"{self.table.name}:{min(self.wanted)}",
                remedy="Give the head of a later verification",
            )
        if self._is_rewritten():
            return self._break_at(self.at.position, "rewritten")
        query = select(*hashed_columns(self.table)).order_by(self.table.c.position)
        with self.connection.execute(query.execution_options(yield_per=BATCH)) as rows:
            for row in rows.mappings():
                if breaks := self._step(dict(row)):
                    return breaks
        return self._at_end()

    def _step(self, row: Mapping[str, Any]) -> ChainBreak | None:
        position = self.at.position + 1
        expected = link(self.key, self.table, self.at.chain, row["content"])
        if row["position"] != position or row["chain"] != expected:
            return self._break_at(position, self._reason_text(row["position"]))
        if not self._is_whole(row):
            return self._break_at(position, "changed")
        self.at = Head(self.table.name, position, row["chain"])
        if self._is_rewritten():
            return self._break_at(position, "rewritten")
        self.rows += 1
        self.erased += row.get("erased_at") is not None
        return None

    def _at_end(self) -> ChainBreak | None:
        position = self.at.position
        if position < max(self.end.position, *self.wanted, 0):
            return self._break_at(position + 1, "removed")
        if position > self.end.position:
            return self._break_at(self.end.position + 1, "inserted")
        return None if self.at == self.end else self._break_at(position, "changed")

    def _is_whole(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is as it was written, or empty where the audit log has it redacted."""
        if not self.known.is_redacted(row["position"]):
            return row.get("erased_at") is None and content_of(self.table, row) == row["content"]
        empty = redacted_values(self.table)
        identity = row[IDENTITY[self.table].name]
        return (
            row["erased_at"] is not None
            and identity == f"{ERASED}{row['position']}"
            and all(row[c] == v for c, v in empty.items())
        )

    def _is_rewritten(self) -> bool:
        return self.wanted.get(self.at.position, self.at.chain) != self.at.chain

    def _reason_text(self, next_position: int) -> What:
        """What was done where the next row is not the one that was written next.

        The one that was written next may be further on; the number of rows decides.
        """
        c = self.table.c
        last = self.connection.scalar(select(func.max(c.position))) or 0
        surplus = last - self.end.position
        query = select(c.content, c.chain).where(c.position > self.at.position)
        if surplus > 0:
            return "inserted"
        with self.connection.execute(query.execution_options(yield_per=BATCH)) as rows:
            if any(link(self.key, self.table, self.at.chain, r.content) == r.chain for r in rows):
                return "reordered"
        return "removed" if surplus < 0 or next_position != self.at.position + 1 else "changed"

    def _break_at(self, position: int, what: What) -> ChainBreak:
        return ChainBreak(self.table.name, position, what)


def _end(connection: Connection, table: Table) -> Head:
    row = connection.execute(select(HEADS).where(HEADS.c.name == table.name)).one_or_none()
    return Head(table.name, 0, "") if row is None else Head(row.name, row.position, row.chain)


def _learn(connection: Connection, known: dict[str, _Known]) -> None:
    """Read the audit log, whose own chain is intact."""
    for tables in connection.scalars(select(AUDIT_LOG.c.tables).order_by(AUDIT_LOG.c.position)):
        for name, done in tables.items():
            known[name].redacted += [(first, last) for first, last in done["redacted"]]
            if done["removed_to"]:
                known[name].anchor = Head(name, done["removed_to"], done["chain"])
    for of_table in known.values():
        of_table.redacted.sort()
