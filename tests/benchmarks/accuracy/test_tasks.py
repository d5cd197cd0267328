"""Part `tasks`: figures of metrics.json beside floor, must and aim."""

import pytest

from benchmarks.accuracy import tasks
from benchmarks.harness.outputs import BEST_SINGLE, FUSED, figure
from cxr_mm.core.files import write_json
from cxr_mm.core.task import load_task
from cxr_mm.core.types import subset_name, subsets


def measured(value):
    return {"value": value, "ci95": [value - 0.1, value + 0.05]}


def subset(n, **values):
    return {"n": n, "findings": {"icu": {name: measured(v) for name, v in values.items()}}}


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """metrics.json of `icu` below CXR_MM_RUNS."""
    gain = {"best_single": "image", "difference": {"value": 0.03, "ci95": [0.0, 0.06]}}
    metrics = {
        "protocol": "folds",
        "folds": 5,
        "subsets": {
            "available": subset(184, auc=0.9, brier=0.1),
            "image": subset(184, auc=0.87),
            "note": subset(179, auc=0.7),
        },
        "fusion_gain": {"fused": "image+note", "studies": 170, "findings": {"icu": gain}},
    }
    write_json(tmp_path / "reports/icu/metrics.json", metrics)
    monkeypatch.setenv("CXR_MM_RUNS", str(tmp_path))


def test_targets_stand_beside_what_was_reached(reports, capsys):
    fused, single, difference = (r for r in tasks.measure() if not r.table)
    assert fused.row == "fused, 5 folds by patient"
    assert (fused.value, fused.reference, fused.must, fused.aim) == (0.9, 0.869, 0.88, 0.91)
    assert fused.met is not None
    assert (single.value, single.reference, single.must) == (0.87, 0.822, None)
    assert (difference.row, difference.value, difference.n) == ("image+note minus image", 0.03, 170)
    assert "covid is left out" in capsys.readouterr().out


def test_every_figure_has_a_table_of_its_own(reports):
    every = [r for r in tasks.measure() if r.table]
    assert {(r.row, r.metric) for r in every} == {
        ("available: icu", "auc"),
        ("available: icu", "brier"),
        ("image: icu", "auc"),
        ("note: icu", "auc"),
    }


def test_of_several_findings_the_mean_is_taken():
    findings = {"a": {"auc": measured(0.7)}, "b": {"auc": measured(0.9)}}
    seen = {"n": 9, "findings": findings, "macro": {"auc": measured(0.8)}}
    metrics = {"subsets": {"available": seen}}
    assert figure(metrics, FUSED, "auc").value == 0.8
    assert figure(metrics, FUSED, "accuracy") is None
    assert figure(metrics, BEST_SINGLE, "auc") is None
    rows = tasks._every("t", metrics)
    assert [row.row for row in rows] == ["available: a", "available: b", "available: macro"]


@pytest.mark.parametrize("target", tasks.TARGETS, ids=lambda t: f"{t.task} {t.inputs} {t.metric}")
def test_every_target_is_of_a_task_a_subset_and_a_metric(target):
    task = load_task(target.task)
    named = {subset_name(s) for s in subsets(task.modalities)}
    assert target.inputs in {*named, FUSED, BEST_SINGLE}
    assert target.metric in tasks.METRICS
    bounds = [b for b in (target.floor, target.must, target.aim) if b is not None]
    assert bounds == sorted(bounds)
