"""Runs: made once, sharing what they have in common, continuing where they stopped."""

import shutil
from pathlib import Path

import pytest
import yaml

from benchmarks.harness import runs
from benchmarks.harness.runs import Wanted, attempt, run, setting, side_by_side
from benchmarks.harness.timing import device
from cxr_mm.core.errors import CxrError, InputError, ParamsError, StageError
from cxr_mm.core.files import read_json, write_json
from cxr_mm.core.shards.work import run_here
from cxr_mm.inference.engine import EngineSettings

OTHER = {"fuse": {"image_scale": 3.0}}
STAGES = ["ingest", "split", "train_image", "embed", "fuse", "evaluate"]


def never(*_args, **_kwargs):
    raise AssertionError("called again")


def finished(overrides):
    return read_json(setting("tiny", overrides).paths.root / runs.DONE)


def test_a_run_is_made_once(project, monkeypatch):
    first = run("tiny", {}, "as it is")
    assert first.metrics["task"] == "tiny"
    assert list(first.seconds) == STAGES
    assert first.total_seconds == pytest.approx(sum(first.seconds.values()))
    assert first.device == device()
    assert [len(table) > 0 for table in first.heldout] == [True]
    assert not setting("tiny", {}).paths.bundle.exists()
    monkeypatch.setattr(runs, "_run_stages", never)
    assert run("tiny", {"fuse": {"inner_folds": 2}}, "the same by another name") == first


def test_runs_that_differ_in_fusion_alone_share_ingest_and_split(project):
    run("tiny", {}, "as it is")
    files = (setting("tiny", {}).paths.pixels, setting("tiny", {}).paths.split)
    before = [(file.resolve(), file.stat().st_mtime_ns) for file in files]
    run("tiny", OTHER, "other")
    other = setting("tiny", OTHER).paths
    after = [(file.resolve(), file.stat().st_mtime_ns) for file in (other.pixels, other.split)]
    assert after == before
    assert finished(OTHER)["metrics"] != finished({})["metrics"]


def test_an_interrupted_run_continues_at_the_stage_where_it_stopped(project, monkeypatch):
    overrides = {"fuse": {"image_scale": 6.0}}

    def fuse(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "fuse", fuse)
        with pytest.raises(KeyboardInterrupt):
            run("tiny", overrides, "interrupted")
    monkeypatch.setattr(runs, "train_image", _named("train_image"))
    monkeypatch.setattr(runs, "embed", _named("embed"))
    run("tiny", overrides, "resumed")
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
    run("tiny", overrides, "before")
    done = setting("tiny", overrides).paths.root / runs.DONE
    write_json(done, {**read_json(done), "source": {"kind": "synthetic", "options": {}}})
    with pytest.raises(StageError, match="changed since"):
        run("tiny", overrides, "after")


def test_a_run_that_fails_says_why_and_lets_others_go_on(project, capsys):
    overrides = {"train_image": {"weights": "packaged"}}
    assert attempt("tiny", overrides, "impossible") is None
    result = capsys.readouterr().err
    assert "error: tiny: impossible: train_image.weights: small_cnn has no pretrained" in result
    with pytest.raises(CxrError):
        run("tiny", overrides, "impossible")


def test_an_override_is_on_top_of_the_tasks_own(project):
    found = setting("tiny", {"ingest": {"workers": 2}, "fuse": {"fusion": "gated"}})
    assert (found.params.ingest.size, found.params.ingest.workers) == (32, 2)
    assert (found.params.fuse.fusion, found.params.fuse.inner_folds) == ("gated", 2)


def test_an_override_is_on_top_of_what_params_yaml_says_of_the_task(project, monkeypatch, tmp_path):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params |= {"tasks": ["tiny"], "per_task": {"tiny": {"fuse": {"seed": 7, "fusion": "gated"}}}}
    shutil.copytree("tasks", tmp_path / "tasks")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    found = setting("tiny", {"fuse": {"fusion": "concat"}}).params.fuse
    assert (found.fusion, found.seed, found.inner_folds) == ("concat", 7, 2)


def test_the_split_may_be_another_than_the_tasks(project):
    found = setting("tiny", {"split": {"protocol": "folds", "folds": 3, "seed": 4}})
    assert (found.task.split.protocol, found.task.split.folds) == ("folds", 3)
    assert found.params.split.seed == 4


@pytest.mark.parametrize(
    "overrides", [{"split": {"folds": 1}}, {"fuse": {"depth": 2}}, {"cook": {"salt": 1}}]
)
def test_an_override_that_is_none_is_refused(project, overrides):
    with pytest.raises(ParamsError):
        setting("tiny", overrides)


def test_folders_differ_where_what_lies_in_them_may(project):
    default = setting("tiny", {})
    assert setting("tiny", {"ingest": {"size": 32}}).paths == default.paths
    assert setting("tiny", {"explain": {"gallery": 2}}).paths == default.paths
    fused = setting("tiny", {"fuse": {"seed": 1}})
    assert fused.prepared == default.prepared
    assert fused.paths != default.paths
    for overrides in ({"split": {"protocol": "folds"}}, {"ingest": {"size": 64}}):
        assert setting("tiny", overrides).prepared != default.prepared


def test_runs_are_made_side_by_side_where_the_environment_names_ray(project, monkeypatch, capsys):
    possible = [
        Wanted("tiny", {"fuse": {"image_scale": scale}}, str(scale)) for scale in (7.0, 8.0)
    ]
    impossible = Wanted("tiny", {"train_image": {"weights": "packaged"}}, "impossible")
    given = []

    def here(engine, load, numbers):
        given.append((engine, list(numbers)))
        return run_here(load, numbers)

    monkeypatch.setattr(runs, "run_shards", here)
    assert list(side_by_side([impossible])) == [None]
    assert given == []
    monkeypatch.setenv("CXR_MM_ENGINE", "ray")
    monkeypatch.setenv("CXR_MM_WORKERS", "2")
    assert list(side_by_side([*possible, impossible]))[2] is None
    assert given == [(EngineSettings(name="ray", workers=2), [0, 1, 2])]
    assert [each.is_done for each in possible] == [True, True]
    assert "error: tiny: impossible" in capsys.readouterr().err
    monkeypatch.setattr(runs, "_run_stages", never)
    assert [done.name for done in side_by_side(possible)] == ["7.0", "8.0"]
    assert len(given) == 1
    monkeypatch.setenv("CXR_MM_ENGINE", "spark")
    with pytest.raises(InputError, match="CXR_MM_ENGINE"):
        list(side_by_side(possible))
