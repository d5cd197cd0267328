"""Results: rows of one part replace each other, and the page says what the rows say."""

from benchmarks.harness.report import read, store
from cxr_mm.core.files import read_json


def test_a_part_measured_again_replaces_itself_alone(kept, make_row):
    store("one", [make_row("one", 0.5)])
    store("two", [make_row("two", 0.6)])
    store("one", [make_row("one", 0.7)])
    values = {r["table"]: r["value"] for r in read_json(kept / "results.json")}
    assert values == {"one": 0.7, "two": 0.6}
    page = (kept / "RESULTS.md").read_text()
    assert "| t | r | 0.700 |" in page
    assert "0.500" not in page


def test_a_table_that_a_part_no_longer_gives_is_gone(kept, make_row):
    command = "make benchmark PART=one"
    store("one", [make_row("one: first", command=command), make_row("one: second")])
    store("one", [make_row("one: other", command=command)])
    assert {row.table for row in read()} == {"one: second", "one: other"}


def test_rows_come_back_as_they_were_kept(kept, make_row):
    row = make_row(ci95=(0.4, 0.6), must=0.9, ceiling=True, claimed=0.95, seconds=2.5, seed=0)
    store("one", [row])
    assert read() == [row]
    named = {"table", "task", "row", "metric", "value", "ci95", "n", "seed", "seconds", "device"}
    assert {*named, "command"} <= set(read_json(kept / "results.json")[0])
