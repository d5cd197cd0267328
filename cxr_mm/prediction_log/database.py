"""The database behind the log: its URL checked, opened, its tables created, its errors named."""

import hashlib
import hmac
import os
import secrets
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    MetaData,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
)
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

from cxr_mm.core.errors import LogError
from cxr_mm.core.record import LONGEST_SITE
from cxr_mm.prediction_log.chain import make_tables
from cxr_mm.prediction_log.partitions import keep_ahead
from cxr_mm.prediction_log.schema import ABOUT, METADATA, SCHEMA_VERSION

BUSY_SECONDS = 30.0
"""How long a write waits for another."""


def checked_url(url: str | URL) -> URL:
    """Check that a URL names a database that lasts.

    Raises:
        LogError: it is invalid, or names SQLite without a file.
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


def public_url(url: URL) -> str:
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
    """Create an engine whose connections wait for one another, up to `wait` seconds.

    Raises:
        LogError: the driver is not installed.
    """
    sqlite = url.get_backend_name() == "sqlite"
    try:
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=not sqlite,
            connect_args=_driver_options(url.get_backend_name(), wait),
        )
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise LogError(
            f"its driver is not installed ({error})",
            field=url.drivername,
            remedy="Install the driver that the URL names",
        ) from error
    if sqlite:
        event.listen(engine, "connect", _configure)
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
            reason, field=public_url(url), remedy="Check the URL and that you may write there"
        ) from error


def is_unavailable(error: LogError) -> bool:
    """Whether the database could not be reached or used, which may pass; not a wrong URL or log."""
    return isinstance(error.__cause__, OperationalError)


def is_refused(error: LogError) -> bool:
    """Whether the database works and refuses these very values."""
    return isinstance(error.__cause__, IntegrityError | DataError)


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction; on SQLite no one else writes from its start, on PostgreSQL rows are locked."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            # Its driver begins a transaction only before rows change, and would not wait there.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection that sees the log as it is now, whatever others write meanwhile."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


def vacuum(engine: Engine, url: URL) -> None:
    """Remove deleted content from the files of the database.

    Raises:
        LogError: others still read an older state of an SQLite file.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM"))
        if engine.dialect.name != "sqlite":
            return
        busy = connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).one()[0]
    if busy:
        raise LogError(
            "done, but the bytes stay in the write-ahead log while others read it",
            field=public_url(url),
            remedy="Do it again when no long reading is under way",
        )


def _driver_options(backend: str, wait: float) -> dict[str, Any]:
    """Options of the driver: how long to wait for SQLite's file or PostgreSQL's lock, and that text
    is text in a database of PostgreSQL that has no encoding too."""
    if backend == "sqlite":
        return {"timeout": wait}
    if backend == "postgresql":
        locks = f"-c lock_timeout={max(1, round(1000 * wait))}"
        seconds = max(2, round(wait))
        return {"connect_timeout": seconds, "options": locks, "client_encoding": "utf8"}
    return {}


def _configure(connection: Any, _: object) -> None:
    """Commits survive a power cut, and deleted bytes are overwritten."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA secure_delete = ON")
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
            "the file was removed or replaced",
            field=str(file),
            remedy="Put it back, or start again to begin a new log",
        )


def write_ahead(engine: Engine, wait: float) -> None:
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


SECRET_VARIABLE = "CXR_MM_LOG_SECRET"
SHORTEST = 16


def keyed_hash(secret: bytes, text: str) -> str:
    """HMAC-SHA256 of a text, hexadecimal."""
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def chain_key(secret: bytes) -> bytes:
    """The key of the log's chain, so that the secret itself serves for ids alone."""
    return keyed_hash(secret, "chain").encode()


def checked_secret(secret: bytes | str | None) -> bytes | None:
    """The secret as bytes; None stays None.

    Raises:
        LogError: it is too short.
    """
    key = secret.encode() if isinstance(secret, str) else secret
    if key is not None and len(key) < SHORTEST:
        raise LogError(
            f"the secret has fewer than {SHORTEST} characters",
            field=SECRET_VARIABLE,
            remedy="Use a long random one",
        )
    return key


def checked_site(site: str) -> str:
    """The name of a site, without blanks around it; empty stays empty.

    Raises:
        LogError: it is too long, or contains what cannot be printed.
    """
    name = site.strip()
    if len(name) > LONGEST_SITE or not name.isprintable():
        raise LogError(
            f"a site has a name of at most {LONGEST_SITE} printable characters",
            field="site",
            remedy="Choose a short name that is no one's",
        )
    return name


def find_secret(url: str) -> bytes:
    """The variable CXR_MM_LOG_SECRET, or the secret file beside an SQLite file, made once.

    Raises:
        LogError: another database and no variable; or a secret file that others can read or
            that cannot be made.
    """
    if given := os.environ.get(SECRET_VARIABLE):
        return given.encode()
    file = sqlite_file(url)
    if file is None:
        raise LogError(
            "only an SQLite log keeps its secret in a file",
            field=SECRET_VARIABLE,
            remedy=f"Set {SECRET_VARIABLE} to at least {SHORTEST} random characters",
        )
    path = file.with_name(f"{file.name}.secret")
    make_folder(file)
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            raise LogError("others can read it", field=str(path), remedy=f"chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise LogError(
            error.strerror or str(error), field=str(path), remedy="Check who owns the folder"
        ) from error


def _make(path: Path) -> None:
    """Link a finished file into place: of two processes that start at once, one wins whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    aside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32))
        path.hardlink_to(aside)
    except FileExistsError:
        return
    finally:
        aside.unlink()


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
        keep_ahead(engine)
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
    if lacking := lacking_columns(engine, METADATA):
        raise LogError(
            f"a development version began the log, which lacks {', '.join(lacking)}",
            field=public_url(url),
            remedy="Start a new log, or use the cxr_mm that wrote it",
        )
    if secret is not None and about.get("secret") != _fingerprint(secret):
        raise LogError(
            "the log was begun with another secret",
            field=public_url(url),
            remedy="Give the one it was begun with (CXR_MM_LOG_SECRET or the .secret file)",
        )


def lacking_columns(bind: Engine | Connection, metadata: MetaData) -> list[str]:
    """Columns that the tables of a database do not have, as `table.column`."""
    found = inspect(bind)
    lacking: list[str] = []
    for table in metadata.tables.values():
        present = {column["name"] for column in found.get_columns(table.name)}
        lacking += [f"{table.name}.{c.name}" for c in table.columns if c.name not in present]
    return lacking


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
