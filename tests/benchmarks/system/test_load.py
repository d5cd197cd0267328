"""Load: what counts as another study's answer, and what a row holds."""

from benchmarks.harness.parts import Row
from benchmarks.system.load import Seen, _rows, _same


def said(study_id, *chances):
    return {"study_id": study_id, "findings": [{"probability": p} for p in chances]}


def test_an_answer_is_of_the_same_study_only_with_its_id_and_its_figures():
    assert _same(said("a", 0.2, 0.7), said("a", 0.20001, 0.7))
    assert not _same(said("a", 0.2, 0.7), said("b", 0.2, 0.7))
    assert not _same(said("a", 0.2, 0.7), said("a", 0.7, 0.2))


def test_rows_say_what_users_saw():
    rows = {r.metric: r for r in _rows(Seen([0.1, 0.2, 0.3], ["lost"], 1, 4), 100, 120)}
    assert rows["errors"].value == 1
    assert rows["answers of another study"].value == 1
    assert rows["prediction, median seconds"].value == 0.2
    assert rows["memory at the end against after a minute"].value == 1.2
    assert all(isinstance(row, Row) and row.n == 3 for row in rows.values())
