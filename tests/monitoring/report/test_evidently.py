"""Evidently's page says what the verdict says, also of performance."""

import json
import re

import pytest

from monitoring.verdict import evaluate_window
from tests.monitoring.conftest import whole


@pytest.fixture(scope="module")
def written(window, frozen, tmp_path_factory):
    from monitoring.report.evidently import write_page  # slow to import, in each test process

    table = window(120, 71, labelled=True, slope=-1.0)
    report = evaluate_window(whole(table), frozen)
    folder = tmp_path_factory.mktemp("page")
    snapshot = write_page(table, frozen, report, folder)
    return report, folder, snapshot


def test_performance_is_a_metric_of_evidentlys_own_tested_at_the_learnt_limit(written):
    report, folder, snapshot = written
    outcome = json.loads((folder / "report.json").read_text())
    shown = {
        m["config"]["figure"]: m["value"]
        for m in outcome["metrics"]
        if "FindingPerformance" in m["metric_name"]
    }
    (result,) = report.concept
    assert shown == pytest.approx({m.metric: m.current for m in result.metrics})
    failed = {
        test.description.split(";")[0]
        for test in snapshot.tests_results
        if test.id == "learnt_limit" and test.status.value == "FAIL"
    }
    limit = result.limit(report.rates["concept"])
    assert len(failed) == sum(m.score > limit for m in result.metrics)
    assert failed


def test_each_column_has_the_score_of_the_summary(written):
    report, folder, _ = written
    outcome = json.loads((folder / "report.json").read_text())
    shown = {
        m["config"]["column"]: m["value"]
        for m in outcome["metrics"]
        if m["metric_name"].startswith("ValueDrift")
    }
    scores = {r.check.name: r.score for r in report.checks}
    assert len(shown) > 5
    assert shown == pytest.approx({name: scores[name] for name in shown})


def test_the_page_is_small_enough_and_loads_nothing_from_elsewhere(written):
    _, folder, _ = written
    page = (folder / "report.html").read_text()
    assert len(page.encode()) < 10_000_000
    loading = re.findall(r"<(?:script|img|iframe|source|link)\s[^>]*(?:src|href)=[^>]*>", page)
    assert [
        tag for tag in loading if not re.search(r"""(?:src|href)=["']?(?:data:|#)""", tag)
    ] == []
