"""Migration: a log of a former version brought to this one, step by step in one transaction.

Version 1 had outcomes without an id and a comment; version 2 had no chain and no events.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, select, text
from sqlalchemy.engine import Connection

from cxr_mm.contracts.record import random_id
from cxr_mm.prediction_log.linking import BATCH, append_rows, make_tables
from cxr_mm.prediction_log.schema import (
    ABOUT,
    ACTS,
    OUTCOMES,
    PREDICTIONS,
    SCHEMA_VERSION,
    value_columns,
)
from cxr_mm.prediction_log.secret import chain_key

INDEX = {PREDICTIONS: "predictions_by_time", OUTCOMES: "outcomes_by_study"}
"""The tables of version 2 and the index of each."""


def migrate(connection: Connection, version: str, secret: bytes) -> None:
    """Bring a log of version 1 or 2 to this one; whole or not at all, as its transaction is.

    Args:
        connection: in a transaction in which nobody else changes tables.
        version: the one it has.
        secret: of the log, for the chain.
    """
    if version == "1":
        _identify_outcomes(connection)
    _chain_rows(connection, version, chain_key(secret))
    said = ABOUT.update().where(ABOUT.c.name == "version").values(value=SCHEMA_VERSION)
    connection.execute(said)


def _identify_outcomes(connection: Connection) -> None:
    """1 → 2: each outcome gets its position as its id, and no comment."""
    for column in ("outcome_id VARCHAR(64)", "comment VARCHAR(500)"):
        connection.execute(text(f"ALTER TABLE outcomes ADD COLUMN {column} NOT NULL DEFAULT ''"))
    connection.execute(text("UPDATE outcomes SET outcome_id = CAST(position AS VARCHAR(64))"))


def _chain_rows(connection: Connection, version: str, key: bytes) -> None:
    """2 → 3: rows in new tables, in their order, numbered without gaps and chained."""
    former = {table: _former(table) for table in INDEX}
    for table, index in INDEX.items():
        connection.execute(text(f"DROP INDEX {index}"))
        connection.execute(text(f"ALTER TABLE {table.name} RENAME TO {former[table].name}"))
    make_tables(connection)
    for table, old in former.items():
        append_rows(connection, table, _rows(connection, table, old), key)
        old.drop(connection)
    act = {"act_id": random_id(), "acted_at": datetime.now(UTC), "act": f"migrate from {version}"}
    append_rows(connection, ACTS, [{**act, "tables": {}}], key)


def _former(table: Table) -> Table:
    columns = [Column(c.name, c.type) for c in value_columns(table, "2")]
    place = Column("position", Integer, primary_key=True)
    return Table(f"{table.name}_2", MetaData(), place, *columns)


def _rows(connection: Connection, table: Table, old: Table) -> Iterator[dict[str, Any]]:
    """Old rows in their order; what they had not yet is empty."""
    fresh: dict[str, Any] = {c.name: {} for c in value_columns(table) if c.name not in old.columns}
    last = 0
    while True:
        query = select(old).where(old.c.position > last).order_by(old.c.position).limit(BATCH)
        rows = connection.execute(query).mappings().all()
        for row in rows:
            yield {k: v for k, v in row.items() if k != "position"} | fresh
        if not rows:
            return
        last = rows[-1]["position"]
