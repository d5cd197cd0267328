"""The chain: what is done to a log behind its back is found, and where, and what it was."""

from datetime import timedelta

import pytest
from sqlalchemy import create_engine, text

from cxr_mm.core.errors import LogError
from cxr_mm.prediction_log import ChainBreak, Head, PredictionLog, erase_patient, retain, verify
from cxr_mm.prediction_log.chain import content_of
from cxr_mm.prediction_log.schema import OUTCOMES

SECRET = "a secret that is long enough"


@pytest.fixture
def log(database, answer, outcome, refusal):
    """Six predictions, three outcomes and two events, in several transactions."""
    with PredictionLog(database, SECRET) as opened:
        for number in range(4):
            opened.append(answer(f"study-{number}", f"patient-{number}"))
        opened.append_many([answer("study-4"), answer("study-5")])
        opened.add_outcomes([outcome(f"s{number}") for number in range(3)])
        opened.add_events([refusal(), refusal(kind="failure")])
        yield opened


@pytest.fixture
def behind(database, log):
    """`behind(statement, …)`: do it to the database without the log."""

    def run(*statements):
        engine = create_engine(database)
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    return run


def test_a_log_that_was_only_written_to_is_whole(log):
    found = verify(log)
    assert found.first_break is None
    assert found.rows == {"audit_log": 0, "predictions": 6, "outcomes": 3, "events": 2}
    assert set(found.erased.values()) == {0}
    assert [(head.table, head.position) for head in found.heads] == [
        ("audit_log", 0),
        ("predictions", 6),
        ("outcomes", 3),
        ("events", 2),
    ]


@pytest.mark.parametrize(
    ("change", "table", "position"),
    [
        ("UPDATE predictions SET latency_ms = 12.25 WHERE position = 3", "predictions", 3),
        ("UPDATE predictions SET latency_ms = NULL WHERE position = 3", "predictions", 3),
        ("UPDATE predictions SET clinical = '{}' WHERE position = 6", "predictions", 6),
        ("UPDATE predictions SET image_embedding = NULL WHERE position = 1", "predictions", 1),
        ("UPDATE outcomes SET label = 0 WHERE position = 2", "outcomes", 2),
        ("UPDATE events SET kind = 'failure' WHERE position = 1", "events", 1),
        ("UPDATE outcomes SET content = chain WHERE position = 2", "outcomes", 2),
        ("UPDATE chain_heads SET chain = 'f' WHERE name = 'events'", "events", 2),
    ],
)
def test_a_change_is_found_where_it_was_made(log, behind, change, table, position):
    behind(change)
    assert verify(log).first_break == ChainBreak(table, position, "changed")


def test_a_change_with_its_hash_made_anew_is_found(log, behind, outcome):
    changed = {**dict(next(o for o in log.read_outcomes() if o.study_hash == "s1")), "label": 0}
    content = content_of(OUTCOMES, changed)
    behind(f"UPDATE outcomes SET label = 0, content = '{content}' WHERE position = 2")
    assert verify(log).first_break == ChainBreak("outcomes", 2, "changed")


@pytest.mark.parametrize("position", [1, 2, 3])
def test_a_row_removed_is_found_also_where_the_gap_was_closed(log, behind, position):
    behind(f"DELETE FROM outcomes WHERE position = {position}")
    assert verify(log).first_break == ChainBreak("outcomes", position, "removed")
    behind(
        f"UPDATE outcomes SET position = position + 9 WHERE position > {position}",
        "UPDATE outcomes SET position = position - 10 WHERE position > 9",
    )
    assert verify(log).first_break == ChainBreak("outcomes", position, "removed")


def test_all_rows_removed_are_found(log, behind):
    behind("DELETE FROM events")
    assert verify(log).first_break == ChainBreak("events", 1, "removed")


@pytest.mark.parametrize("place", [1, 2, 4])
def test_a_row_slipped_in_is_found(log, behind, place):
    behind(
        f"UPDATE outcomes SET position = position + 9 WHERE position >= {place}",
        "UPDATE outcomes SET position = position - 8 WHERE position > 9",
        "INSERT INTO outcomes (position, content, chain, outcome_id, study_hash, finding, label,"
        f" recorded_at, source, comment) SELECT {place}, chain, content, 'new', study_hash,"
        " finding, label, recorded_at, source, comment FROM outcomes"
        f" WHERE position = {1 if place > 1 else 2}",
    )
    assert verify(log).first_break == ChainBreak("outcomes", place, "inserted")


def test_rows_that_changed_places_are_found(log, behind):
    behind(
        "UPDATE outcomes SET position = 9 WHERE position = 2",
        "UPDATE outcomes SET position = 2 WHERE position = 3",
        "UPDATE outcomes SET position = 3 WHERE position = 9",
    )
    assert verify(log).first_break == ChainBreak("outcomes", 2, "reordered")


def test_an_end_cut_off_together_with_its_head_is_found_by_an_earlier_head(log, behind):
    heads = verify(log).heads
    behind(
        "DELETE FROM outcomes WHERE position = 3",
        "UPDATE chain_heads SET position = 2,"
        " chain = (SELECT chain FROM outcomes WHERE position = 2) WHERE name = 'outcomes'",
    )
    assert verify(log).first_break is None
    assert verify(log, heads).first_break == ChainBreak("outcomes", 3, "removed")


def test_a_log_written_anew_by_one_who_has_the_secret_is_found_by_an_earlier_head(
    log, behind, outcome
):
    heads = verify(log).heads
    behind(
        "DELETE FROM outcomes",
        "UPDATE chain_heads SET position = 0, chain = '' WHERE name = 'outcomes'",
    )
    log.add_outcomes([outcome(f"s{number}", label=0) for number in range(4)])
    assert verify(log).first_break is None
    assert verify(log, heads).first_break == ChainBreak("outcomes", 3, "rewritten")


def test_a_chain_of_another_secret_does_not_hold(log, database, behind, tmp_path, outcome):
    with PredictionLog(f"sqlite:///{tmp_path / 'other.db'}", SECRET + "!") as other:
        other.add_outcomes(log.read_outcomes())
        forged = verify(other).heads[2]
    behind(f"UPDATE outcomes SET chain = '{forged.chain}' WHERE position = 3")
    assert forged.position == 3
    assert verify(log).first_break == ChainBreak("outcomes", 3, "changed")


def test_earlier_heads_hold_while_the_log_grows_and_is_erased_from(log, answer):
    heads = verify(log).heads
    log.append(answer())
    erase_patient(log, "patient-1")
    assert verify(log, heads).first_break is None


def test_a_head_before_what_retention_removed_cannot_be_judged(log, answer):
    early = verify(log).heads
    log.append(answer())
    retain(log, log.append(answer()).created_at - timedelta(microseconds=1))
    assert verify(log).first_break is None
    with pytest.raises(LogError, match="has removed the rows up to"):
        verify(log, early)


@pytest.mark.parametrize("text", ["", "predictions", "predictions:x:y", "patients:1:abc"])
def test_a_head_written_otherwise_is_refused(text):
    with pytest.raises(LogError, match="no head of a chain"):
        Head.read(text)


def test_a_head_is_read_as_it_is_printed(log):
    for head in verify(log).heads:
        assert Head.read(str(head)) == head


def test_the_chain_cannot_be_verified_without_the_secret(log, database):
    with PredictionLog(database, None) as reader, pytest.raises(LogError, match="its secret"):
        verify(reader)
