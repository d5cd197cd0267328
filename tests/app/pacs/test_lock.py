"""One node for a queue, on SQLite and on PostgreSQL."""

from contextlib import ExitStack

import pytest
from sqlalchemy import create_engine, text

from app.pacs.queue import Queue
from app.pacs.queue.lock import QueueTakenError, only_node
from app.pacs.queue.tables import RECEIVED
from cxr_mm.core.errors import LogError


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_second_node_is_refused_until_the_first_has_ended(database, url, request):
    url = url if database == "sqlite" else request.getfixturevalue("postgresql")
    with ExitStack() as stack:
        check = stack.enter_context(only_node(url))
        check()
        with pytest.raises(QueueTakenError, match="another node works on this queue"):
            stack.enter_context(only_node(url))
        check()
    with only_node(url):
        pass


def test_a_lock_lost_with_its_connection_is_taken_again_unless_another_has_it(postgresql):
    engine = create_engine(postgresql)
    others = text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    with only_node(postgresql) as check:
        with engine.begin() as connection:
            connection.execute(others)
        check()
        with pytest.raises(QueueTakenError), only_node(postgresql):
            pass
        with engine.begin() as connection:
            connection.execute(others)
        with only_node(postgresql), pytest.raises(QueueTakenError):
            check()
    engine.dispose()


def test_a_queue_of_another_version_is_refused(url):
    engine = create_engine(url)
    with engine.begin() as connection:
        RECEIVED.create(connection)
        connection.execute(text("ALTER TABLE received DROP COLUMN suspicion"))
    engine.dispose()
    with pytest.raises(LogError, match=r"lacks received\.suspicion"):
        Queue(url)
