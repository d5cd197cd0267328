"""Runs: made once, sharing what they have in common, going on where they stopped."""

import subprocess

import pytest

from benchmarks.harness import runs
from benchmarks.harness.runs import attempt, run, run_here, setting
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json, write_json
from cxr_mm.training import embed as embed_stage
from cxr_mm.training import fuse as fuse_stage
from cxr_mm.training import train_image as train_stage

OTHER = {"fuse": {"image_scale": 3.0}}
STAGES = ["ingest", "split", "train_image", "embed", "fuse", "evaluate"]


def never(*_args, **_kwargs):
    raise AssertionError("called again")


def finished(overrides):
    return read_json(setting("tiny", overrides).paths.root / runs.DONE)


def test_a_run_is_made_once_in_a_process_of_its_own(project, monkeypatch):
    first = run("tiny", {}, "as it is")
    assert first.metrics["task"] == "tiny"
    assert list(first.seconds) == STAGES
    assert first.total_seconds == pytest.approx(sum(first.seconds.values()))
    assert first.device == "cpu, 1 threads"
    assert [len(table) > 0 for table in first.heldout] == [True]
    assert not setting("tiny", {}).paths.bundle.exists()
    monkeypatch.setattr(subprocess, "run", never)
    assert run("tiny", {"fuse": {"inner_folds": 2}}, "the same by another name") == first


def test_runs_that_differ_in_fusion_alone_share_ingest_and_split(project):
    run_here("tiny", {}, "as it is")
    files = (setting("tiny", {}).paths.pixels, setting("tiny", {}).paths.split)
    before = [(file.resolve(), file.stat().st_mtime_ns) for file in files]
    run_here("tiny", OTHER, "other")
    other = setting("tiny", OTHER).paths
    after = [(file.resolve(), file.stat().st_mtime_ns) for file in (other.pixels, other.split)]
    assert after == before
    assert finished(OTHER)["metrics"] != finished({})["metrics"]


def test_an_interrupted_run_goes_on_at_the_stage_where_it_stopped(project, monkeypatch):
    overrides = {"fuse": {"image_scale": 6.0}}

    def fuse(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fuse_stage, "fuse", fuse)
        with pytest.raises(KeyboardInterrupt):
            run_here("tiny", overrides, "interrupted")
    monkeypatch.setattr(train_stage, "train_image", _named("train_image"))
    monkeypatch.setattr(embed_stage, "embed", _named("embed"))
    run_here("tiny", overrides, "resumed")
    seconds = finished(overrides)["seconds"]
    assert seconds["fuse"] is None, "the time before the interruption is not known"
    assert seconds["train_image"] is not None
    assert run("tiny", overrides, "read").total_seconds is None


def _named(name):
    def stage(*_args):
        never()

    stage.__name__ = name
    return stage


def test_a_run_made_of_other_data_is_refused(project):
    overrides = {"fuse": {"image_scale": 4.0}}
    run_here("tiny", overrides, "before")
    done = setting("tiny", overrides).paths.root / runs.DONE
    write_json(done, {**read_json(done), "source": {"kind": "synthetic", "options": {}}})
    with pytest.raises(StageError, match="changed since"):
        run("tiny", overrides, "after")


def test_a_run_that_fails_says_why_and_lets_others_go_on(project, monkeypatch, capsys):
    def start(command, **_given):
        log = setting("tiny", overrides).paths.root / runs.LOG
        log.write_text("a long story\nerror: it cannot be done.\n")
        return subprocess.CompletedProcess(command, 2)

    overrides = {"fuse": {"image_scale": 5.0}}
    monkeypatch.setattr(subprocess, "run", start)
    assert attempt("tiny", overrides, "impossible") is None
    result = capsys.readouterr().err
    assert "code 2 (error: it cannot be done.)" in result
    assert "log.txt" in result
    with pytest.raises(StageError):
        run("tiny", overrides, "impossible")


def test_the_process_of_a_run_ends_with_the_reason_in_one_line(project, capsys):
    requested = project / "asked.json"
    write_json(requested, {"train_image": {"weights": "packaged"}})
    with pytest.raises(SystemExit) as left:
        runs.main(["tiny", str(requested), "impossible"])
    assert left.value.code == 2
    assert "error: train_image.weights: small_cnn has no pretrained" in capsys.readouterr().err
