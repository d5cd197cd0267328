"""Health: what is shown of a bundle is of that very bundle, and nothing else is served."""

from datetime import UTC, datetime

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.monitoring_reports import address, evaluation, health, latest_report, report_routes
from cxr_mm.core.config import EvaluateParams, ReferenceParams
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json, write_json
from cxr_mm.core.verdict import Reason, Verdict
from cxr_mm.evaluation.evaluate import evaluate
from cxr_mm.models.bundle import load_bundle
from cxr_mm.prediction_log import open_log
from monitoring.reference import freeze, heldout_records
from monitoring.report.report import WindowRequest, report

MOVED = Reason(
    drift="data", name="age", title="Age", level="warn", score=4, limit=3, text="Age moved"
)


def verdict(digest, **changes):
    values = {
        "status": "warn",
        "task": "icu",
        "digest": digest,
        "n": 60,
        "n_labelled": 0,
        "first": "2026-03-01T08:00:00+00:00",
        "last": "2026-03-02T09:30:00+00:00",
        "headline": "60 studies",
        "reasons": (MOVED,),
    }
    return Verdict(**(values | changes))


def keep(root, stamp, digest, **changes):
    """A report as monitoring leaves it, without its pages."""
    folder = root / "reports" / "monitoring" / "icu" / stamp
    write_json(folder / "verdict.json", verdict(digest, **changes).model_dump(mode="json"))
    return folder


@pytest.fixture(scope="module")
def bundle(bundle_folder):
    return load_bundle(bundle_folder)


@pytest.fixture(scope="module")
def evaluated(pipeline):
    params = pipeline.params.model_copy(update={"evaluate": EvaluateParams(bootstrap=100)})
    evaluate(pipeline.task, params, pipeline.paths)
    return pipeline.paths.root


def again(records, times):
    """The records of other patients: the small pipeline holds out too few for a reference."""
    for turn in range(times):
        for record in records:
            names = ("record_id", "study_hash", "patient_hash")
            yield record.model_copy(update={n: f"{turn} {getattr(record, n)}" for n in names})


@pytest.fixture
def reported(pipeline, bundle, tmp_path, monkeypatch):
    """A folder in which monitoring has reported on a window too small to judge."""
    task, paths = pipeline.task, pipeline.paths
    records, _ = heldout_records(task, paths, bundle.digest, 0, bundle.prior)
    params = ReferenceParams(components=2, resamples=100, window_sizes=(10, 20))
    freeze(task, bundle.digest, [*again(records, 3)], [], params, tmp_path / "reference")
    url = f"sqlite:///{tmp_path / 'log.db'}"
    with open_log(url) as log:
        log.add_records(records[:5])
    monkeypatch.chdir(tmp_path)
    report(WindowRequest(paths.bundle, url, tmp_path / "reference"))
    return tmp_path


def test_the_newest_report_of_this_model_counts(tmp_path):
    keep(tmp_path, "20260301T100000Z", "aa", headline="older")
    newest = keep(tmp_path, "20260302T100000Z", "aa", headline="newest")
    keep(tmp_path, "20260303T100000Z", "bb", headline="of another model")
    found = latest_report("icu", "aa", tmp_path)
    assert (found.folder, found.verdict.headline) == (newest, "newest")
    assert found.made == datetime(2026, 3, 2, 10, tzinfo=UTC)
    assert [(r.level, r.drift, r.text) for r in found.verdict.reasons] == [
        ("warn", "data", "Age moved")
    ]


def test_reports_of_another_model_alone_are_said_to_be_so(tmp_path):
    keep(tmp_path, "20260301T100000Z", "b" * 64)
    found = latest_report("icu", "aa", tmp_path)
    assert "of another model: bbbbbbbbbbbb" in str(found)
    assert "python -m monitoring report" in found.remedy


def test_no_report_is_said_and_the_command_named(tmp_path):
    found = latest_report("icu", "aa", tmp_path)
    assert "no report" in found.message
    assert "python -m monitoring report" in found.remedy


def test_what_is_no_whole_report_is_passed_over(tmp_path):
    good = keep(tmp_path, "20260301T100000Z", "aa")
    keep(tmp_path, "elsewhere", "aa")
    keep(tmp_path, ".20260304T100000Z.aside", "aa")
    first_break = keep(tmp_path, "20260303T100000Z", "aa")
    (first_break / "verdict.json").write_text('{"status": "ok"')
    unknown = keep(tmp_path, "20260305T100000Z", "aa")
    said = read_json(unknown / "verdict.json")
    write_json(unknown / "verdict.json", said | {"status": "<b>fine</b>"})
    assert latest_report("icu", "aa", tmp_path).folder == good


def test_what_evaluate_leaves_is_found_for_its_bundle_and_no_other(pipeline, bundle, evaluated):
    task = pipeline.task.name
    found = evaluation(task, bundle.digest, evaluated)
    assert found.card.startswith("# Model card")
    assert "available" in found.metrics["subsets"]
    assert "roc" in {path.stem for path in found.plots}
    other = evaluation(task, "0" * 64, evaluated)
    assert "of another model" in str(other)
    assert f"dvc repro evaluate@{task}" in other.remedy


def test_without_evaluate_the_command_is_named(tmp_path):
    found = health("icu", "aa", tmp_path)
    assert isinstance(found.evaluation, StageError)
    assert "dvc repro evaluate@icu" in str(found.evaluation)
    assert isinstance(found.report, StageError)


def test_a_report_that_monitoring_made_is_read_and_served(bundle, reported):
    name = bundle.task.name
    found = latest_report(name, bundle.digest)
    assert found.verdict.status == "too_small"
    client = TestClient(Starlette(routes=report_routes({name: bundle})))
    answer = client.get(address(name, "summary"))
    assert answer.text == (reported / found.folder / "summary.html").read_text()
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "sandbox allow-scripts;" in policy
    assert "default-src 'none'" in policy
    # Too small a window has no page of Evidently's; one that comes later is there at once.
    assert client.get(address(name, "evidently")).status_code == 404
    (found.folder / "report.html").write_text("column by column")
    assert client.get(address(name, "evidently")).text == "column by column"
    assert client.get(f"/reports/{name}/report.html").text == "column by column"


@pytest.mark.parametrize(
    "path",
    [
        "/reports/synthetic/verdict.json",
        "/reports/other/summary",
        "/reports/synthetic/../../log.db",
        "/reports/synthetic/%2e%2e%2f%2e%2e%2flog.db",
        "/reports/synthetic/summary/../verdict.json",
        "/reports//etc/passwd",
    ],
)
def test_nothing_but_the_pages_is_served(path, bundle, reported):
    assert (reported / "log.db").is_file()
    client = TestClient(Starlette(routes=report_routes({"synthetic": bundle})))
    assert client.get(path).status_code == 404


def test_a_report_of_another_model_is_not_served(bundle, reported):
    routes = report_routes({"synthetic": bundle}, reported / "nowhere")
    assert TestClient(Starlette(routes=routes)).get("/reports/synthetic/summary").status_code == 404
    kept = next((reported / "reports/monitoring/synthetic").glob("*/verdict.json"))
    write_json(kept, read_json(kept) | {"digest": "0" * 64})
    routes = report_routes({"synthetic": bundle})
    assert TestClient(Starlette(routes=routes)).get("/reports/synthetic/summary").status_code == 404
