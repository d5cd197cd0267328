"""Linking: chain rows, so that none can be changed, lost or inserted unnoticed.

After the hash-linked records of Haber and Stornetta (1991), with HMAC-SHA256 (RFC 2104) for the
links: without the log's secret no one can write a chain anew.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Self

from sqlalchemy import LargeBinary, Table, insert, inspect, select, type_coerce
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from cxr_mm.core.errors import LogError
from cxr_mm.prediction_log.partitions import make_partitioned
from cxr_mm.prediction_log.schema import (
    CHAINED,
    HEADS,
    IDENTITY,
    METADATA,
    Embedding,
    embedding_bytes,
    value_columns,
)

BATCH = 1000


@dataclass(frozen=True)
class Head:
    """End of a chain: table, position of its last row (0: none) and that row's link."""

    table: str
    position: int
    chain: str

    @classmethod
    def read(cls, text: str) -> Self:
        """From `TABLE:POSITION:CHAIN`.

        Raises:
            LogError: it is written otherwise, or names no table of the log.
        """
        table, _, rest = text.partition(":")
        position, _, chain = rest.partition(":")
        if table not in {t.name for t in CHAINED} or not position.isdecimal():
            raise LogError("no head of a chain", field=text, remedy="Write it as verify printed it")
        return cls(table, int(position), chain)

    def __str__(self) -> str:
        return f"{self.table}:{self.position}:{self.chain}"


def content_of(table: Table, row: Mapping[str, Any]) -> str:
    """SHA-256 of a row's values as canonical JSON, hexadecimal.

    Vectors may be given as numbers or as the bytes that are stored.
    """
    values = {c.name: _canonical(c.type, row[c.name]) for c in value_columns(table)}
    body = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(body.encode()).hexdigest()


def link(key: bytes, table: Table, previous: str, content: str) -> str:
    """What chains a row to the one before it (`previous` is empty for the first), hexadecimal."""
    return hmac.digest(key, f"{table.name}:{previous}:{content}".encode(), "sha256").hex()


def hashed_columns(table: Table) -> list[ColumnElement[Any]]:
    """Every column as `content_of` takes it fastest: vectors as the bytes that are stored."""
    return [
        type_coerce(c, LargeBinary).label(c.name) if isinstance(c.type, Embedding) else c
        for c in table.columns
    ]


def make_tables(connection: Connection) -> None:
    """Create missing tables, and begin their chains."""
    if connection.dialect.name == "postgresql" and not inspect(connection).has_table("predictions"):
        make_partitioned(connection, datetime.now(UTC))
    METADATA.create_all(connection)
    begun = set(connection.scalars(select(HEADS.c.name)))
    for table in CHAINED:
        if table.name not in begun:
            connection.execute(insert(HEADS), {"name": table.name, "position": 0, "chain": ""})


def locked_head(connection: Connection, table: Table) -> Head:
    """The end of a table's chain, locked until this transaction ends.

    Raises:
        LogError: its row is missing.
    """
    row = connection.execute(
        select(HEADS).where(HEADS.c.name == table.name).with_for_update()
    ).one_or_none()
    if row is None:
        raise LogError(
            "the head of its chain is missing", field=table.name, remedy="Run verify, and ask why"
        )
    return Head(row.name, row.position, row.chain)


def append_rows(
    connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]], key: bytes
) -> None:
    """Add rows at the end of a table's chain; known identities are left out.

    Args:
        connection: in a transaction that others cannot write beside (`database.writing`).
        table: a chained one.
        rows: its values by column.
        key: of the chain.
    """
    head, left = locked_head(connection, table), iter(rows)
    position, chain = head.position, head.chain
    while batch := list(islice(left, BATCH)):
        chained = []
        for row in _fresh(connection, table, batch):
            content = content_of(table, row)
            position, chain = position + 1, link(key, table, chain, content)
            chained.append({**row, "position": position, "content": content, "chain": chain})
        if chained:
            connection.execute(insert(table), chained)
    moved = HEADS.update().where(HEADS.c.name == table.name)
    connection.execute(moved.values(position=position, chain=chain))


def _fresh(
    connection: Connection, table: Table, rows: list[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Rows that the table lacks, each once."""
    identity = IDENTITY[table]
    batch = {row[identity.name]: row for row in reversed(rows)}
    present = set(connection.scalars(select(identity).where(identity.in_(batch))))
    return [row for key, row in reversed(batch.items()) if key not in present]


def _canonical(kind: object, value: Any) -> Any:
    """A value as it comes back from every database alike."""
    if isinstance(kind, Embedding):
        stored = embedding_bytes(value)
        return None if stored is None else stored.hex()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    # SQLite keeps NaN in a column of numbers as NULL.
    return None if isinstance(value, float) and value != value else value
