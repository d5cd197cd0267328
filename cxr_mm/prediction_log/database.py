"""The database behind the log: its URL checked, opened, made if need be, its errors named."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, event, insert, inspect, make_url, select, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.schema import CreateIndex, CreateTable

from cxr_mm.errors import LogError
from cxr_mm.prediction_log.migration import migrate
from cxr_mm.prediction_log.schema import ABOUT, FORMER_VERSION, METADATA, SCHEMA_VERSION

BUSY_SECONDS = 30.0
"""How long a write to SQLite waits for another."""


def checked_url(url: str | URL) -> URL:
    """A URL that names a database which lasts.

    Raises:
        LogError: it is no URL, or an SQLite one without a file.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise LogError(
            "not a database URL", field="log", remedy="Write it as sqlite:///predictions.db"
        ) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise LogError(
            "a log in memory keeps nothing",
            field=str(url),
            remedy="Name a file, as sqlite:///predictions.db",
        )
    return parsed


def sqlite_file(url: str | URL) -> Path | None:
    """File of an SQLite URL; None for another database."""
    parsed = checked_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def shown(url: URL) -> str:
    """The URL without its password."""
    return url.render_as_string(hide_password=True)


def make_folder(file: Path) -> None:
    """Make the folder of a file.

    Raises:
        LogError: it cannot be made.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LogError(
            error.strerror or str(error), field=str(file.parent), remedy="Choose another folder"
        ) from error


def open_engine(url: URL, wait: float = BUSY_SECONDS) -> Engine:
    """An engine whose connections wait for one another, SQLite's so many seconds.

    Raises:
        LogError: the driver is not installed.
    """
    sqlite = url.get_backend_name() == "sqlite"
    arguments: dict[str, Any] = {"connect_args": {"timeout": wait}} if sqlite else {}
    try:
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=not sqlite, **arguments)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise LogError(
            f"its driver is not installed ({error})",
            field=url.drivername,
            remedy="Install the driver that the URL names",
        ) from error
    if sqlite:
        event.listen(engine, "connect", _synchronous)
        event.listen(engine, "checkout", partial(_same_file, Path(url.database or "").absolute()))
    return engine


@contextmanager
def database_errors(url: URL) -> Iterator[None]:
    """Name the log and the database's own reason, never the values that were bound."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise LogError(
            reason, field=shown(url), remedy="Check the URL and that you may write there"
        ) from error


def is_away(error: LogError) -> bool:
    """Whether the database could not be reached or used, which may pass; not a wrong URL or log."""
    return isinstance(error.__cause__, OperationalError)


def is_refused(error: LogError) -> bool:
    """Whether the database works and refuses these very values."""
    return isinstance(error.__cause__, IntegrityError | DataError)


def create_tables(engine: Engine, fingerprint: str | None, wait: float = BUSY_SECONDS) -> None:
    """Make what is not there yet, also where several processes start at once.

    A log of the former version is brought to this one.
    """
    if engine.dialect.name == "sqlite":
        _write_ahead(engine, wait)
    migrate(engine)
    with engine.begin() as connection:
        for table in METADATA.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
    about = {"version": SCHEMA_VERSION, "secret": fingerprint}
    for name, value in about.items():
        try:
            with engine.begin() as connection:
                if value is not None:
                    _say_once(connection, name, value)
        except IntegrityError:
            continue  # another process said it in between


def check_tables(engine: Engine, url: URL, fingerprint: str | None) -> str:
    """Check that this is a log begun with this secret, and return its version: this or the former.

    Raises:
        LogError: it is not.
    """
    if not inspect(engine).has_table(ABOUT.name):
        raise LogError("no prediction log", field=shown(url), remedy="Check the URL")
    with engine.connect() as connection:
        found = {row.name: row.value for row in connection.execute(select(ABOUT))}
    version: str | None = found.get("version")
    if version is None or version not in (FORMER_VERSION, SCHEMA_VERSION):
        raise LogError(
            f"the log has version {version}, this program writes {SCHEMA_VERSION}",
            field=shown(url),
            remedy="Start a new log, or use the cxr_mm that wrote it",
        )
    if fingerprint is not None and found.get("secret") != fingerprint:
        raise LogError(
            "the log was begun with another secret",
            field=shown(url),
            remedy="Give the one it was begun with (CXR_MM_LOG_SECRET or the .secret file)",
        )
    return version


def _synchronous(connection: Any, _: object) -> None:
    """A commit that outlives a power cut."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _same_file(file: Path, _: object, record: PoolProxiedConnection, __: object) -> None:
    """Refuse a connection whose file was removed: what it writes would be gone with the file."""
    try:
        now = file.stat()
        identity = (now.st_dev, now.st_ino)
    except OSError:
        identity = None
    if record.info.setdefault("file", identity) != identity:
        raise LogError(
            "the file was taken away or replaced",
            field=str(file),
            remedy="Put it back, or start again to begin a new log",
        )


def _write_ahead(engine: Engine, wait: float) -> None:
    """Readers beside a writer (WAL), kept in the file.

    The switch itself does not wait for other connections, so it is tried again.
    """
    until = time.monotonic() + wait
    while True:
        try:
            with engine.connect() as connection:
                connection.execute(text("PRAGMA journal_mode = WAL"))
            return
        except OperationalError as error:
            if "locked" not in str(error.orig) or time.monotonic() > until:
                raise
            time.sleep(0.05)


def _say_once(connection: Connection, name: str, value: str) -> None:
    if connection.scalar(select(ABOUT.c.value).where(ABOUT.c.name == name)) is None:
        connection.execute(insert(ABOUT), {"name": name, "value": value})
