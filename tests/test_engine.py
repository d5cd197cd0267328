"""Engines: shards scored in this process or by Ray give the same bytes, whoever dies on the way."""

import io
import os
import shutil
import signal
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from cxr_mm.core.config import for_task, load_params
from cxr_mm.core.errors import BundleError, InputError, ManifestError, StorageError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.prediction import FindingPrediction, Prediction
from cxr_mm.core.shards.store import Store
from cxr_mm.core.task import load_task
from cxr_mm.data import studies as reading
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.pixel_cache import build_cache
from cxr_mm.data.sources.manifest_csv import read_manifest_csv
from cxr_mm.evaluation.external.answers import answering, collect_answers, shards_to_answer
from cxr_mm.inference import ray_engine
from cxr_mm.inference.engine import LOCAL, EngineSettings, run_of, run_shards
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.inference.score import score
from cxr_mm.inference.shards import Shards, open_shards, score_folder, scoring_run
from cxr_mm.inference.suspicion import ANY, suspicion, suspicions
from cxr_mm.inference.worklist import Wanted, most_suspicious, written
from cxr_mm.training.embed import embed
from cxr_mm.training.fuse import fuse

RAY = EngineSettings(name="ray", workers=2)
COPIES = 100
FINDINGS = load_task("synthetic").finding_names
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None,
    reason="Ray is not installed: pip install 'cxr-mm[ray]'",
)


@pytest.fixture(scope="module")
def table(pipeline, tmp_path_factory):
    """A manifest of 100 studies in seven shards: few with an image, the last without any input."""
    manifest = load_manifest(pipeline.paths, pipeline.task)
    whole = manifest.frame[manifest.mask().all(axis=1)].head(COPIES)
    frame = whole[["study_id", "patient_id", "image_path", "note"]].astype(object)
    frame = frame.join(manifest.clinical()).reset_index(drop=True)
    frame = pd.concat([frame] * (COPIES // len(frame) + 1), ignore_index=True).head(COPIES)
    frame["study_id"] = [f"s{number}" for number in range(COPIES)]
    frame.loc[6:, "image_path"] = None
    frame.loc[COPIES - 1, ["note", *manifest.task.clinical_names]] = None
    path = tmp_path_factory.mktemp("shards") / "studies.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(bundle_folder, table):
    return scoring_run(bundle_folder, table)


@pytest.fixture(scope="module")
def scored(run, tmp_path_factory):
    """A folder that the local engine has scored in one go."""
    out = tmp_path_factory.mktemp("local") / "out"
    score_folder(run, out, LOCAL)
    return out


def parts(out):
    """Bytes of every part of a folder."""
    return {p.relative_to(out): p.read_bytes() for p in sorted(out.glob("*/part-*.parquet"))}


def test_the_parts_together_are_the_table_that_one_file_has(run, scored, tmp_path):
    one = tmp_path / "one.parquet"
    tally = score(load_predictor(run.bundle), Path(run.source), one)
    pd.testing.assert_frame_equal(pd.read_parquet(scored / "predictions"), pd.read_parquet(one))
    assert len(list((scored / "predictions").iterdir())) == 7
    (failed,) = pd.read_parquet(scored / "failed").to_dict("records")
    assert failed == vars(tally.bad[0])
    again, _ = score_folder(run, scored, LOCAL)
    assert again.lines() == tally.lines()
    summary = read_json(scored / "summary.json")
    assert (summary["studies"], summary["answered"], summary["failed"]) == (100, 99, 1)
    assert summary["last_run"]["studies"] == 0


def test_a_run_goes_on_with_the_shards_that_are_missing(run, scored, tmp_path):
    out = tmp_path / "out"
    score_folder(run, out, LOCAL)
    lost = out / "predictions" / "part-000001.parquet"
    lost.unlink()
    (out / "predictions" / ".part-000001.1234.parquet").write_text("half")
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("*/part-*.parquet")}
    score_folder(run, out, LOCAL)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert parts(out) == parts(scored)
    assert read_json(out / "summary.json")["last_run"]["studies"] == 16


def test_a_folder_of_another_run_or_with_other_files_is_refused(run, scored, table, tmp_path):
    other = scoring_run(run.bundle, table, "use")
    with pytest.raises(InputError, match="output of another run: header differ"):
        score_folder(other, scored, LOCAL)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="no earlier output of score"):
        score_folder(run, tmp_path, LOCAL)
    with pytest.raises(ManifestError, match="cannot be read"):
        scoring_run(run.bundle, tmp_path / "nowhere.csv")


def test_an_error_that_was_not_foreseen_is_a_failed_row(run, table, tmp_path, monkeypatch):
    def breaks(path):
        raise KeyError("PixelSpacing")

    monkeypatch.setattr(reading, "read_radiograph", breaks)
    report, _ = score_folder(run, tmp_path / "out", LOCAL)
    assert report.failed == 7
    failed = pd.read_parquet(tmp_path / "out" / "failed").set_index("study_id")
    assert failed.loc["s0", "reason"] == "failed unexpectedly (KeyError: 'PixelSpacing')"


def test_an_object_store_gets_the_parts_of_a_folder_and_a_run_goes_on_there(run, scored, s3):
    import fsspec

    store, url = fsspec.filesystem("s3", use_listings_cache=False), "s3://radiographs/scored"
    report, cost = score_folder(run, url, LOCAL, price_per_hour=36.0)
    assert report == score_folder(run, scored, LOCAL)[0]
    store.rm("radiographs/scored/predictions/part-000001.parquet")
    assert score_folder(run, url, LOCAL)[1].studies == 16
    found = {Path(p).relative_to("radiographs/scored"): p for p in store.find("radiographs/scored")}
    whole = parts(scored)
    assert {name: store.cat_file(found[name]) for name in whole} == whole
    assert {str(name) for name in found.keys() - whole.keys()} == {
        "run.json",
        "studies.parquet",
        "summary.json",
    }
    assert cost.cost_per_1000 == pytest.approx(cost.processor_seconds / 100 * 10)
    with pytest.raises(InputError, match="output of another run"):
        score_folder(scoring_run(run.bundle, run.source, "use"), url, LOCAL)
    with pytest.raises(InputError, match="no earlier output of score"):
        score_folder(run, "s3://radiographs", LOCAL)
    with pytest.raises(StorageError, match="there is no such bucket"):
        score_folder(run, "s3://nowhere/scored", LOCAL)
    with pytest.raises(StorageError, match="nothing is written by ftp"):
        score_folder(run, "ftp://host/scored", LOCAL)


def test_the_worklist_of_a_folder_has_the_most_suspicious_first(run, scored):
    task, shards = load_predictor(run.bundle).bundle.task, open_shards(run, scored)
    table = pd.read_parquet(scored / "predictions")
    ratios = [table[f"probability.{n}"] / table[f"threshold.{n}"] for n in FINDINGS]
    order = pd.concat(ratios, axis=1).max(axis=1).sort_values(ascending=False, kind="stable").index
    listed = most_suspicious(shards, task, Wanted(), 10)
    assert [found.study_id for found in listed] == table.loc[order[:10], "study_id"].tolist()
    name = FINDINGS[0]
    listed = most_suspicious(shards, task, Wanted(name, positive=True), 1000)
    only = table[table[f"positive.{name}"]].sort_values(
        f"probability.{name}", ascending=False, kind="stable"
    )
    assert 0 < len(only) < len(table)
    read = pd.read_csv(io.StringIO(written(listed, task)), dtype={"patient_id": str})
    columns = ["study_id", "modalities", "digest", *(c for c in only if c.partition(".")[2])]
    only = only[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(read[columns], only, check_dtype=False)


@pytest.mark.parametrize("name", ["synthetic", "pneumonia3"])
def test_suspicion_is_that_of_each_study_alone(name):
    task = load_task(name)
    chances, cuts = np.random.default_rng(0).random((2, 20, len(task.findings)))
    if task.problem == "multiclass":
        cuts[:] = np.nan
    for finding in (ANY, task.finding_names[-1]):
        alone = [
            suspicion(predicted(task, row, limits), task, finding)
            for row, limits in zip(chances, cuts, strict=True)
        ]
        assert suspicions(chances, cuts, task, finding) == pytest.approx(alone)


def predicted(task, chances, cuts):
    values = zip(task.findings, chances.tolist(), cuts.tolist(), strict=True)
    findings = tuple(
        FindingPrediction(
            finding=finding.name,
            title=finding.title,
            probability=chance,
            threshold=None if np.isnan(cut) else cut,
            positive=False,
        )
        for finding, chance, cut in values
    )
    known = {"study_id": "s", "task": task.name, "model": "m", "digest": "d"}
    return Prediction(**known, modalities=("image",), findings=findings)


@pytest.mark.parametrize(
    ("studies", "size", "shards"),
    [(1, 16, 1), (20_000, 16, 1250), (1_000_000, 496, 2017), (10**9, 4096, 244_141)],
)
def test_a_shard_is_a_small_part_of_the_work_and_of_whole_batches(tmp_path, studies, size, shards):
    cut = Shards(Store.at(tmp_path), studies)
    assert (cut.size, len(cut)) == (size, shards)
    assert cut.length(len(cut) - 1) == studies - (len(cut) - 1) * size > 0


@pytest.fixture(scope="module")
def ray_runtime():
    """One runtime for the tests of this file, as `--engine ray` starts it."""
    with ray_engine._runtime("local") as ray:
        yield ray


@needs_ray
def test_ray_gives_the_bytes_of_the_local_engine(ray_runtime, run, scored, tmp_path):
    score_folder(run, tmp_path / "out", RAY)
    assert parts(tmp_path / "out") == parts(scored)


@needs_ray
def test_ray_decodes_and_embeds_the_bytes_of_the_local_engine(ray_runtime, pipeline, tmp_path):
    paths, manifest = pipeline.paths, load_manifest(pipeline.paths, pipeline.task)
    names = manifest.frame["image_path"]
    images = [None if pd.isna(name) else Path(name) for name in names]
    size = np.load(paths.pixels, mmap_mode="r").shape[1]
    rows = build_cache(images, tmp_path / "pixels.npy", size, run=run_of(RAY))
    assert (tmp_path / "pixels.npy").read_bytes() == paths.pixels.read_bytes()
    assert [row.pixel_row for row in rows] == manifest.frame["pixel_row"].tolist()
    there = TaskPaths(pipeline.task.name, tmp_path)
    for folder in ("ingest", "image_encoder"):
        own = getattr(paths, folder)
        shutil.copytree(own, tmp_path / own.relative_to(paths.root))
    embed(pipeline.task, pipeline.params, there, run_of(RAY))
    for name in ("embeddings.safetensors", "parts.json"):
        assert (there.embeddings / name).read_bytes() == (paths.embeddings / name).read_bytes()


@needs_ray
def test_ray_fits_the_folds_of_the_local_engine(ray_runtime, folds_project, tmp_path):
    task = load_task(str(folds_project / "tasks" / "synthetic.yaml"))
    params = for_task(load_params(folds_project / "params.yaml"), task)
    own, there = (TaskPaths(task.name, root) for root in (folds_project, tmp_path))
    for name in ("ingest", "split", "embeddings", "image_encoder"):
        shutil.copytree(getattr(own, name), getattr(there, name))
    fuse(task, params, there, run=run_of(RAY))
    weights = [path.relative_to(own.root) for path in own.bundle.rglob("*.safetensors")]
    for path in (
        "models/synthetic/heldout.parquet",
        "models/synthetic/divisions.parquet",
        *weights,
    ):
        assert (there.root / path).read_bytes() == (own.root / path).read_bytes()


@needs_ray
def test_ray_answers_the_studies_of_another_site_as_the_local_engine(
    ray_runtime, bundle_folder, table
):
    predictor = load_predictor(bundle_folder)
    studies = read_manifest_csv(table, predictor.bundle.task, "predict").to_dict("records")
    load, shards = answering(predictor, studies, "ignore"), shards_to_answer(COPIES)
    here, there = (
        collect_answers(predictor, COPIES, run_of(engine)(load, shards)) for engine in (LOCAL, RAY)
    )
    assert here.report.predicted == COPIES - 1
    assert len(here.bad) == 1
    assert there == here


def _dies_once(mark):
    """Work whose process is killed at the third shard, the first time."""

    def work(shards):
        for shard in shards:
            if shard == 2 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield {"shard": shard}

    return work


def _refuses():
    raise BundleError("is damaged", field="bundle", remedy="Copy it again")


@needs_ray
def test_a_worker_that_dies_is_replaced_and_an_error_of_the_work_is_its_own(ray_runtime, tmp_path):
    one = EngineSettings(name="ray", workers=1)
    results = run_shards(one, partial(_dies_once, tmp_path / "died"), range(9))
    assert sorted(result["shard"] for result in results) == list(range(9))
    assert (tmp_path / "died").exists()
    with pytest.raises(BundleError, match="is damaged"):
        list(run_shards(one, _refuses, range(3)))
    with pytest.raises(InputError, match="--workers: 999 do not fit"):
        list(run_shards(EngineSettings(name="ray", workers=999), _refuses, range(3)))


@needs_ray
def test_ray_listens_on_loopback_alone_and_wants_a_token(ray_runtime):
    assert os.environ["RAY_AUTH_MODE"] == "token"
    own = psutil.Process().children(recursive=True)
    listening = {
        (process.name(), connection.laddr.ip)
        for process in own
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert {(name, ip) for name, ip in listening if not ip.endswith("127.0.0.1")} == set()


def test_a_token_that_others_can_read_is_refused(tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("0" * 64)
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    with pytest.raises(InputError, match="other accounts can read Ray's token"):
        ray_engine.secure_token("auto")
    token.chmod(0o600)
    ray_engine.secure_token("auto")
    assert os.environ["RAY_AUTH_MODE"] == "token"


@needs_ray
def test_ray_client_is_refused(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    settings = EngineSettings(name="ray", address="ray://10.0.0.5:10001")
    with pytest.raises(InputError, match="on a node of the cluster with --address auto"):
        list(run_shards(settings, _refuses, range(1)))


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'cxr-mm\[ray\]'"):
        list(run_shards(RAY, _refuses, range(1)))
