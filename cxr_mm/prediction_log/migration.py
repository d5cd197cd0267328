"""Migration: a log of the former version brought to this one, whole or not at all.

Version 1 had outcomes without an id and a comment.
"""

from sqlalchemy import String, cast, column, insert, inspect, literal_column, select, table, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.schema import CreateIndex, CreateTable

from cxr_mm.prediction_log.schema import (
    ABOUT,
    FORMER_OUTCOME_COLUMNS,
    FORMER_VERSION,
    OUTCOMES,
    SCHEMA_VERSION,
)

VERSION = select(ABOUT.c.value).where(ABOUT.c.name == "version")
KEPT = [c.name for c in FORMER_OUTCOME_COLUMNS]
FORMER = table("outcomes_1", column("position"), *map(column, KEPT))


def migrate(engine: Engine) -> None:
    """Bring a log of the former version to this one; leave any other as it is.

    Of several processes that start at once, one does it and the others wait.
    """
    if not inspect(engine).has_table(ABOUT.name):
        return
    with engine.connect() as connection:
        if connection.scalar(VERSION) != FORMER_VERSION:
            return
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            # Its driver begins a transaction only before rows change, not before tables do.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        if connection.scalar(VERSION.with_for_update()) == FORMER_VERSION:
            _copy_outcomes(connection)
            said = ABOUT.update().where(ABOUT.c.name == "version").values(value=SCHEMA_VERSION)
            connection.execute(said)


def _copy_outcomes(connection: Connection) -> None:
    """Outcomes in a new table, in their order, each with its old position as its id."""
    connection.execute(text(f"ALTER TABLE {OUTCOMES.name} RENAME TO {FORMER.name}"))
    connection.execute(CreateTable(OUTCOMES))
    rows = select(
        cast(FORMER.c.position, String(64)), *(FORMER.c[n] for n in KEPT), literal_column("''")
    ).order_by(FORMER.c.position)
    connection.execute(insert(OUTCOMES).from_select(["outcome_id", *KEPT, "comment"], rows))
    connection.execute(text(f"DROP TABLE {FORMER.name}"))
    for index in OUTCOMES.indexes:
        connection.execute(CreateIndex(index))
