"""Report: rows of one part replace each other, and the page says what the rows say."""

import pytest

from benchmarks.harness.parts import PARTS
from benchmarks.harness.report import FOLDED, ordered, page, read, significant, store
from cxr_mm.core.files import read_json


def test_targets_are_counted_by_limits_and_the_others_named(make_row):
    rows = [
        make_row(value=0.9, ci95=(0.85, 0.95), must=0.8),
        make_row(row="wide", value=0.9, ci95=(0.75, 0.95), must=0.8),
        make_row(row="low", value=0.7, ci95=(0.6, 0.79), must=0.8),
        make_row(row="alarms", value=0.03, must=0.02, ceiling=True),
        make_row(row="rate", value=0.01, ci95=(0.0, 0.03), must=0.02, ceiling=True),
        make_row(row="free", value=0.1),
    ]
    states = ["met", "not shown", "not met", "not met", "not shown", None]
    assert [row.met for row in rows] == states
    result = page(rows)
    assert "1 of 5 figures are shown to be what they must be" in result
    assert "- one: t, alarms, auc 0.030, must be ≤ 0.020" in result
    assert "- one: t, wide, auc 0.900 (0.750 to 0.950), must be ≥ 0.800" in result
    assert "| t | r | auc | 0.900 (0.850 to 0.950) | ≥ 0.800 | met | 5 |" in result
    assert "| t | alarms | auc | 0.030 | ≤ 0.020 | **not met** | 5 |" in result


def test_a_page_without_targets_has_no_count(make_row):
    assert "are shown to be" not in page([make_row()])


def test_metrics_of_one_row_stand_beside_each_other(make_row):
    rows = [
        make_row(metric="auc", value=0.9, ci95=(0.8, 0.95)),
        make_row(metric="brier", value=0.002),
        make_row(row="other", metric="brier", value=0.2),
    ]
    result = page(rows)
    assert "| task | row | auc | brier | n |" in result
    assert "| t | r | 0.900 (0.800 to 0.950) | 0.002 | 5 |" in result
    assert "| t | other |  | 0.200 | 5 |" in result


def test_a_count_has_no_decimals_and_a_share_has(make_row):
    text = page([make_row(metric="patients", value=84.0), make_row(metric="share", value=1.0)])
    assert "| 84 | 1.000 |" in text


def test_a_difference_is_bold_after_correction_for_the_table_alone(make_row):
    gain = make_row(value=0.05, ci95=(0.01, 0.09), reference=0.0)
    assert gain.p == pytest.approx(0.0143, abs=1e-4)
    assert "**0.050** (0.010 to 0.090)" in page([gain])
    others = [make_row(row=str(n), value=0.0, ci95=(-0.04, 0.04), reference=0.0) for n in range(3)]
    assert significant([gain, *others[:2]]) == [gain]  # 3 x 0.0143 < 0.05
    assert significant([gain, *others]) == []  # 4 x 0.0143 > 0.05
    assert "**0.050**" not in page([gain, *others])


def test_seconds_and_device_stand_where_there_are_seconds(make_row):
    assert "device" not in page([make_row()]).split("##")[1]
    result = page([make_row(seconds=61.2, device="NVIDIA H200")])
    assert "| 5 | 61 | NVIDIA H200 |" in result


def test_a_gpu_is_named_also_where_nothing_was_timed(make_row):
    assert "| 5 | NVIDIA H200 |" in page([make_row(device="NVIDIA H200")])
    assert "device" not in page([make_row(device="cpu, 1 threads")]).split("##")[1]


def test_a_long_table_is_folded(make_row):
    rows = [make_row(row=str(n)) for n in range(FOLDED)]
    assert f"<summary>{FOLDED} rows</summary>" in page(rows)
    assert "<summary>" not in page(rows[:5])


def test_tables_come_in_the_order_of_the_parts_each_with_its_command(make_row):
    first, last = next(iter(PARTS)), list(PARTS)[-1]
    rows = [
        make_row("mine"),
        make_row(last),
        make_row(f"{first}: more", part=first),
    ]
    assert [row.table for row in ordered(rows)] == [f"{first}: more", last, "mine"]
    result = page(rows)
    assert PARTS[first].about in result
    for row in rows:
        assert f"## {row.table}\n\n`make benchmark PART={row.part}`" in result


def test_what_is_compared_with_is_named_by_the_part(make_row):
    rows = [make_row("tasks", reference=0.8)]
    assert "| floor |" in page(rows)


def test_a_bar_in_a_name_does_not_break_the_table(make_row):
    assert "| t | a/b |" in page([make_row(row="a|b")])


def test_a_part_measured_again_replaces_itself_alone(stored, make_row):
    store("one", [make_row("one", 0.5)])
    store("two", [make_row("two", 0.6)])
    store("one", [make_row("one", 0.7)])
    values = {r["table"]: r["value"] for r in read_json(stored / "results.json")}
    assert values == {"one": 0.7, "two": 0.6}
    page = (stored / "RESULTS.md").read_text()
    assert "| t | r | 0.700 |" in page
    assert "0.500" not in page


def test_a_table_that_a_part_no_longer_gives_is_gone(stored, make_row):
    store("two", [make_row("two")])
    store("one", [make_row("one: first"), make_row("one: second")])
    store("one", [make_row("one: other")])
    assert {row.table for row in read()} == {"one: other", "two"}


def test_rows_of_tasks_that_were_not_measured_again_stay(stored, make_row):
    store("one", [make_row("one", 0.5, task="first"), make_row("one", 0.6, task="second")])
    store("one", [make_row("one", 0.7, task="second")])
    assert {row.task: row.value for row in read()} == {"first": 0.5, "second": 0.7}


def test_a_row_is_given_its_part_table_and_device(stored, make_row):
    store("one", [make_row("", part=""), make_row("one: more", part="", device="a GPU")])
    first, second = read()
    assert (first.part, first.table) == ("one", "one")
    assert first.device.startswith("cpu, ")
    assert (second.part, second.table, second.device) == ("one", "one: more", "a GPU")


def test_rows_come_back_as_they_were_stored(stored, make_row):
    row = make_row(
        device="cpu", ci95=(0.4, 0.6), must=0.9, ceiling=True, claimed=0.95, seconds=2.5, seed=0
    )
    store("one", [row])
    assert read() == [row]
    named = {
        "part",
        "table",
        "task",
        "row",
        "metric",
        "value",
        "ci95",
        "n",
        "seed",
        "seconds",
        "device",
    }
    assert named <= set(read_json(stored / "results.json")[0])
