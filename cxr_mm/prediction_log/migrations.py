"""Tables of a log made, brought to this version and checked when it is opened."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import URL, Column, Integer, MetaData, Table, func, insert, inspect, select, text
from sqlalchemy.engine import Connection, Engine

from cxr_mm.core.errors import LogError
from cxr_mm.core.record import random_id
from cxr_mm.prediction_log.chain import BATCH, append_rows, make_tables
from cxr_mm.prediction_log.database import chain_key, keyed_hash, shown, write_ahead, writing
from cxr_mm.prediction_log.schema import (
    ABOUT,
    ACTS,
    FORMER_VERSIONS,
    OUTCOMES,
    PREDICTIONS,
    SCHEMA_VERSION,
    value_columns,
)

INDEX = {PREDICTIONS: "predictions_by_time", OUTCOMES: "outcomes_by_study"}
"""The tables of version 2 and the index of each."""


def migrate(connection: Connection, version: str, secret: bytes) -> None:
    """Bring a log of version 1 or 2 to this one; whole or not at all, as its transaction is.

    Args:
        connection: in a transaction in which no one else changes tables.
        version: the one it has.
        secret: of the log, for the chain.
    """
    if version == "1":
        _identify_outcomes(connection)
    _chain_rows(connection, version, chain_key(secret))
    result = ABOUT.update().where(ABOUT.c.name == "version").values(value=SCHEMA_VERSION)
    connection.execute(result)


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


ONE_AT_A_TIME = zlib.crc32(b"tables of a prediction log")
"""PostgreSQL's number of the lock under which tables are made."""


def create_tables(engine: Engine, secret: bytes | None, wait: float) -> None:
    """Make what is not there yet, also where several processes start at once.

    A log of a former version is brought to this one where its secret is at hand; any other is
    left as it is.
    """
    if engine.dialect.name == "sqlite":
        write_ahead(engine, wait)
    fingerprint = _fingerprint(secret)
    with engine.connect() as connection:
        about = _about(connection)
    if about.get("version") == SCHEMA_VERSION and (secret is None or "secret" in about):
        return
    with _alone(engine) as connection:
        about = _about(connection)
        version = about.get("version", SCHEMA_VERSION)
        if version in FORMER_VERSIONS:
            if secret is None or about.get("secret", fingerprint) != fingerprint:
                return
            migrate(connection, version, secret)
        elif version != SCHEMA_VERSION:
            return
        make_tables(connection)
        for name, value in (("version", SCHEMA_VERSION), ("secret", fingerprint)):
            if value is not None and name not in about:
                connection.execute(insert(ABOUT), {"name": name, "value": value})


def check_tables(engine: Engine, url: URL, secret: bytes | None) -> str:
    """Check that this is a log begun with this secret, and return its version: this or a former.

    Raises:
        LogError: it is not.
    """
    with engine.connect() as connection:
        found = _about(connection)
    if not found:
        raise LogError("no prediction log", field=shown(url), remedy="Check the URL")
    version = found.get("version", "")
    if version not in (*FORMER_VERSIONS, SCHEMA_VERSION):
        raise LogError(
            f"the log has version {version}, this program writes {SCHEMA_VERSION}",
            field=shown(url),
            remedy="Start a new log, or use the cxr_mm that wrote it",
        )
    if secret is not None and found.get("secret") != _fingerprint(secret):
        raise LogError(
            "the log was begun with another secret",
            field=shown(url),
            remedy="Give the one it was begun with (CXR_MM_LOG_SECRET or the .secret file)",
        )
    return version


def _fingerprint(secret: bytes | None) -> str | None:
    return None if secret is None else keyed_hash(secret, "log")


def _about(connection: Connection) -> dict[str, str]:
    """What a log says of itself; nothing where there is none."""
    if not inspect(connection).has_table(ABOUT.name):
        return {}
    return {row.name: row.value for row in connection.execute(select(ABOUT))}


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """A transaction in which no one else makes or changes tables."""
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(ONE_AT_A_TIME)))
        yield connection
