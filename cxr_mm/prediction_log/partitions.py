"""Partitions: PostgreSQL keeps the predictions by month, so that a window is read from its months.

Partitions are made ahead when a log is opened by a role that may make tables. What no month takes
is in the partition `predictions_other`, where it is found all the same. SQLite has one table.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from sqlalchemy import MetaData, PrimaryKeyConstraint, Table, UniqueConstraint, inspect, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from cxr_mm.prediction_log.schema import IDENTITY, MOMENT, PREDICTIONS

MONTHS_AHEAD = 12
OTHER = f"{PREDICTIONS.name}_other"


def make_partitioned(connection: Connection, now: datetime) -> None:
    """Create the predictions of PostgreSQL, with partitions from this month on."""
    _partitioned(PREDICTIONS).create(connection)
    connection.execute(text(f"CREATE TABLE {OTHER} PARTITION OF {PREDICTIONS.name} DEFAULT"))
    make_months(connection, now, MONTHS_AHEAD)


def keep_ahead(engine: Engine) -> None:
    """Make the partitions of coming months; whoever may not or would have to wait leaves it."""
    if engine.dialect.name != "postgresql":
        return
    # Another process makes the same one; or the role may write rows alone; or a long reading is
    # under way, behind which all would wait.
    with suppress(OperationalError, ProgrammingError), engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '2s'"))
        make_months(connection, datetime.now(UTC), MONTHS_AHEAD)


def make_months(connection: Connection, first: datetime, count: int) -> None:
    """Make the partitions of the month of `first` and of so many after it, as far as they lack."""
    present = set(inspect(connection).get_table_names())
    for start, end in _months(first, count):
        name = f"{PREDICTIONS.name}_{start:%Y_%m}"
        if name not in present:
            bounds = f"FROM ('{start:%Y-%m-%d}') TO ('{end:%Y-%m-%d}')"
            words = f"CREATE TABLE {name} PARTITION OF {PREDICTIONS.name} FOR VALUES {bounds}"
            # Not where rows of that month are in the other partition already.
            with suppress(IntegrityError), connection.begin_nested():
                connection.execute(text(words))


def _months(first: datetime, count: int) -> Iterator[tuple[datetime, datetime]]:
    start = datetime(first.year, first.month, 1, tzinfo=UTC)
    for _ in range(count + 1):
        end = datetime(start.year + start.month // 12, start.month % 12 + 1, 1, tzinfo=UTC)
        yield start, end
        start = end


def _partitioned(table: Table) -> Table:
    """The table by month: each of its keys holds the time too, as PostgreSQL demands.

    That none occurs twice over all months is held by the writers, who take turns.
    """
    copy, moment = table.to_metadata(MetaData()), MOMENT[table].name
    for unique in [each for each in copy.constraints if isinstance(each, UniqueConstraint)]:
        copy.constraints.remove(unique)
    copy.append_constraint(UniqueConstraint(IDENTITY[table].name, moment))
    copy.c[moment].primary_key = True
    copy.append_constraint(PrimaryKeyConstraint("position", moment))
    copy.dialect_options["postgresql"]["partition_by"] = f"RANGE ({moment})"
    return copy
