"""Tables of a log: created and checked when it is opened."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, func, insert, inspect, select
from sqlalchemy.engine import Connection, Engine

from cxr_mm.core.errors import LogError
from cxr_mm.prediction_log.chain import make_tables
from cxr_mm.prediction_log.database import keyed_hash, public_url, write_ahead, writing
from cxr_mm.prediction_log.schema import (
    ABOUT,
    SCHEMA_VERSION,
)

ONE_AT_A_TIME = zlib.crc32(b"tables of a prediction log")
"""PostgreSQL's number of the lock under which tables are made."""


def create_tables(engine: Engine, secret: bytes | None, wait: float) -> None:
    """Create what is missing, also where several processes start at once.

    A log of another version is left as it is.
    """
    if engine.dialect.name == "sqlite":
        write_ahead(engine, wait)
    with engine.connect() as connection:
        about = _about(connection)
    if about.get("version") == SCHEMA_VERSION and (secret is None or "secret" in about):
        return
    with _alone(engine) as connection:
        about = _about(connection)
        if about.get("version", SCHEMA_VERSION) != SCHEMA_VERSION:
            return
        make_tables(connection)
        for name, value in (("version", SCHEMA_VERSION), ("secret", _fingerprint(secret))):
            if value is not None and name not in about:
                connection.execute(insert(ABOUT), {"name": name, "value": value})


def check_tables(engine: Engine, url: URL, secret: bytes | None) -> None:
    """Check that this is a log of this version, begun with this secret.

    Raises:
        LogError: it is not.
    """
    with engine.connect() as connection:
        about = _about(connection)
    if not about:
        raise LogError("no prediction log", field=public_url(url), remedy="Check the URL")
    if about.get("version") != SCHEMA_VERSION:
        raise LogError(
            f"the log has version {about.get('version')}, this program writes {SCHEMA_VERSION}",
            field=public_url(url),
            remedy="Start a new log, or use the cxr_mm that wrote it",
        )
    if secret is not None and about.get("secret") != _fingerprint(secret):
        raise LogError(
            "the log was begun with another secret",
            field=public_url(url),
            remedy="Give the one it was begun with (CXR_MM_LOG_SECRET or the .secret file)",
        )


def _fingerprint(secret: bytes | None) -> str | None:
    return None if secret is None else keyed_hash(secret, "log")


def _about(connection: Connection) -> dict[str, str]:
    """Name → value of what the log records of itself; empty without a log."""
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
