"""Load: what counts as another study's answer, and what a row holds."""

from benchmarks.harness.parts import Row
from benchmarks.system.load import ALONE, TOGETHER, Seen, _rows, _same


def said(study_id, *chances):
    return {"study_id": study_id, "findings": [{"probability": p} for p in chances]}


def test_an_answer_is_of_the_same_study_only_with_its_id_and_its_figures():
    assert _same(said("a", 0.2, 0.7), said("a", 0.20001, 0.7))
    assert not _same(said("a", 0.2, 0.7), said("b", 0.2, 0.7))
    assert not _same(said("a", 0.2, 0.7), said("a", 0.7, 0.2))


def test_rows_say_what_users_saw():
    alone = Seen([0.5, 0.6, 0.7], [], 0, 1, lasted=30, memory=(100, 300))
    together = Seen([0.1, 0.2, 0.3] * 10, ["lost"], 1, 4, lasted=150, memory=(100, 120))
    rows = _rows({ALONE: alone, TOGETHER: together})
    found = {r.metric: r for r in rows if r.row.startswith(f"{TOGETHER}:")}
    assert found["errors"].value == 1
    assert found["answers of another study"].value == 1
    assert found["prediction, median seconds"].value == 0.2
    assert found["predictions a second"].value == 0.2
    assert found[f"predictions a second against {ALONE}"].value == 2.0
    assert found["memory at the end against after a minute"].value == 1.2
    assert all(isinstance(row, Row) for row in rows)
    assert [r.metric for r in rows if r.met == "not met"] == [
        "errors",
        "answers of another study",
        "memory at the end against after a minute",
    ]
