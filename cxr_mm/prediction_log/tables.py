"""Tables of a log made, brought to this version and checked when it is opened."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, func, insert, inspect, select
from sqlalchemy.engine import Connection, Engine

from cxr_mm.errors import LogError
from cxr_mm.prediction_log.database import shown, write_ahead, writing
from cxr_mm.prediction_log.linking import make_tables
from cxr_mm.prediction_log.migration import migrate
from cxr_mm.prediction_log.schema import ABOUT, FORMER_VERSIONS, SCHEMA_VERSION
from cxr_mm.prediction_log.secret import keyed_hash

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
    """A transaction in which nobody else makes or changes tables."""
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(ONE_AT_A_TIME)))
        yield connection
