"""Benchmarks: rows of one table replace each other, and the page says what the rows say."""

import pytest

from benchmarks import rows as kept
from benchmarks import tasks
from benchmarks.__main__ import PARTS, main
from benchmarks.rows import Row, store
from cxr_mm.data.tasks import load_task
from cxr_mm.files import read_json, write_json


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(kept, "PAGE", tmp_path / "RESULTS.md")
    return tmp_path


def row(table, value):
    return Row(table=table, task="t", row="r", metric="auc", value=value, n=5, command="make x")


def test_a_table_measured_again_replaces_itself_alone(folder):
    store("one", [row("one", 0.5)])
    store("two", [row("two", 0.6)])
    store("one", [row("one", 0.7)])
    values = {r["table"]: r["value"] for r in read_json(folder / "results.json")}
    assert values == {"one": 0.7, "two": 0.6}
    page = (folder / "RESULTS.md").read_text()
    assert "| t | r | auc | 0.700 |" in page
    assert "0.500" not in page


def test_rows_of_a_task_are_its_metrics_beside_their_floor(tmp_path, monkeypatch):
    found = {"value": 0.9, "ci95": [0.8, 0.95]}
    gain = {"best_single": "image", "difference": {"value": 0.03, "ci95": [0.0, 0.06]}}
    metrics = {
        "subsets": {"image": {"n": 184, "findings": {"icu": {"auc": found}}}},
        "fusion_gain": {"fused": "image+note", "studies": 170, "findings": {"icu": gain}},
    }
    write_json(tmp_path / "reports/icu/metrics.json", metrics)
    monkeypatch.chdir(tmp_path)
    auc, difference = tasks.measure()
    assert (auc.task, auc.row, auc.value, auc.reference) == ("icu", "image: icu", 0.9, 0.822)
    assert (difference.row, difference.value, difference.n) == ("image+note minus image", 0.03, 170)


def test_every_floor_belongs_to_a_task_and_a_metric():
    for task, _, metric in tasks.FLOORS:
        load_task(task)
        assert metric in tasks.METRICS


def test_an_unknown_part_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["speeed"])
    assert ", ".join(PARTS) in capsys.readouterr().out
