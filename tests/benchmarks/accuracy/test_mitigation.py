"""Part `mitigation`: the gaps that are shown, each by every method, before and after."""

from types import SimpleNamespace

import pandas as pd
import pytest

from benchmarks.accuracy import mitigation
from cxr_mm.core.files import write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import load_task

FLAG = {"finding": "effusion", "by": "sex", "crossed": False, "survives_correction": True}


def test_a_gap_is_mitigated_once_and_only_where_it_is_shown_after_correction():
    flags = [
        {**FLAG, "metric": "fnr"},
        {**FLAG, "metric": "fpr"},
        {**FLAG, "by": "age", "survives_correction": False},
        {**FLAG, "by": "age × sex", "crossed": True},
    ]
    assert mitigation.shown_gaps({"flags": flags}) == [("effusion", "sex")]


def report(after):
    """Figures of one method: every gap goes from 0.3 to `after`, AUC is not defined."""

    def figure(before, after):
        sides = {"before": before, "after": after, "change": after - before}
        return {name: {"value": value, "ci95": (-1.0, 1.0)} for name, value in sides.items()}

    none = {"value": None, "ci95": None}
    return {
        "gaps": {name: figure(0.3, after) for name in ("sensitivity", "specificity", "ece")},
        "overall": {"auc": dict.fromkeys(("before", "after", "change"), none)}
        | {name: figure(0.8, 0.7) for name in ("accuracy", "net_benefit")},
    }


@pytest.fixture
def rows(monkeypatch, tmp_path):
    """Rows of a task whose effusion has a gap between the sexes, its measurement made up."""
    paths = TaskPaths("effusion", tmp_path)
    write_json(paths.reports / "subgroups.json", {"flags": [FLAG]})
    frame = pd.DataFrame({"finding.effusion": [1.0, 0.0, None]})

    def mitigated(manifest, table, by, params):
        assert params.mitigate == ("thresholds", "recalibrate")
        methods = {"thresholds": report(0.1), "recalibrate": report(0.2)}
        return {"effusion": methods | ({"reweight": report(0.0)} if table == by else {})}

    monkeypatch.setattr(mitigation, "load_manifest", lambda *a: SimpleNamespace(frame=frame))
    monkeypatch.setattr(mitigation, "read_heldout", lambda *a: "held out")
    monkeypatch.setattr(mitigation, "reweighted", lambda manifest, paths, params, by: by)
    monkeypatch.setattr(mitigation, "mitigated", mitigated)
    return list(mitigation.measure_task(load_task("effusion"), paths))


def test_each_method_has_gaps_before_and_after_and_what_it_costs(rows):
    values = {(row.row, row.metric): row.value for row in rows}
    for method, after in (("thresholds", 0.1), ("recalibrate", 0.2), ("reweight", 0.0)):
        name = f"effusion by sex: {method}"
        assert values[name, "sensitivity gap, before"] == 0.3
        assert values[name, "sensitivity gap, after"] == after
        assert values[name, "ece gap, change"] == pytest.approx(after - 0.3)
        assert values[name, "accuracy, change"] == pytest.approx(-0.1)
        assert (name, "auc, change") not in values
    assert {row.reference for row in rows if row.metric.endswith("change")} == {0}
    assert {row.reference for row in rows if not row.metric.endswith("change")} == {None}
    assert {row.n for row in rows} == {2}
