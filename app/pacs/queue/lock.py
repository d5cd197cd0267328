"""One node for a queue: a second one is refused, on the same machine and on another."""

import fcntl
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, func, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from cxr_mm.core.errors import LogError
from cxr_mm.prediction_log.database import (
    checked_url,
    database_errors,
    make_folder,
    open_engine,
    public_url,
    sqlite_file,
)


class QueueTakenError(LogError):
    """Another node works on the queue."""


NUMBER = zlib.crc32(b"node of a queue")
"""PostgreSQL's number of the lock that a node holds."""
Check = Callable[[], None]


@contextmanager
def only_node(url: str) -> Iterator[Check]:
    """Keep other nodes away from a queue.

    Yields:
        Checks that the lock is still held, and takes it again where the database was away; raises
        what this raises.

    Raises:
        QueueTakenError: another node has the queue.
        LogError: the database cannot be used.
    """
    file = sqlite_file(url)
    with _file_lock(file, url) if file else _session_lock(checked_url(url)) as check:
        yield check


@contextmanager
def _file_lock(file: Path, url: str) -> Iterator[Check]:
    """A lock beside an SQLite file: one on the file itself would end with any of its handles."""
    make_folder(file)
    with file.with_name(f"{file.name}.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(checked_url(url)) from error
        yield lambda: None


@contextmanager
def _session_lock(url: URL) -> Iterator[Check]:
    """A lock that PostgreSQL keeps as long as its connection."""
    engine = open_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    held: list[Connection] = []

    def check() -> None:
        with database_errors(url):
            if held and _is_alive(held[0]):
                return
            held.clear()
            connection = engine.connect()
            held.append(connection)
            if not connection.scalar(select(func.pg_try_advisory_lock(NUMBER))):
                raise _taken(url)

    try:
        check()
        yield check
    finally:
        for connection in held:
            connection.close()
        engine.dispose()


def _is_alive(connection: Connection) -> bool:
    try:
        connection.execute(select(1))
    except DBAPIError:
        return False
    return not connection.invalidated


def _taken(url: URL) -> QueueTakenError:
    return QueueTakenError(
        "another node works on this queue",
        field=public_url(url),
        remedy="End it first, or give this one a storage and a queue of its own",
    )
