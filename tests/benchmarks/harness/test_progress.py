"""Progress: what a stopped command stored is not measured again, unless its inputs changed."""

import pytest

from benchmarks import __main__ as command
from benchmarks.harness import progress
from benchmarks.harness.parts import PARTS, Part
from benchmarks.harness.report import read
from cxr_mm.core.errors import StageError
from cxr_mm.core.paths import TaskPaths

PART = Part(measure="it", about="what", takes="1 minute", after="embed", tasks=("a", "b", "c"))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder where `a` and `b` have run `embed`; `c` has not."""
    monkeypatch.setenv("CXR_MM_RUNS", str(tmp_path))
    monkeypatch.setattr(progress, "BEGUN", tmp_path / "begun")
    for name in "ab":
        TaskPaths(name, tmp_path).embeddings.mkdir(parents=True)
    return tmp_path


def names(*chosen):
    return [paths.task for paths in progress.each_task("it", PART, chosen)]


def stopped_after(count):
    """Ask for some tasks and stop while the next is measured."""
    every = progress.each_task("it", PART, ())
    for _ in range(count + 1):
        next(every)
    every.close()


def test_a_stopped_command_goes_on_at_the_task_where_it_was_stopped(runs, capsys):
    stopped_after(1)
    assert names() == ["b"]
    result = capsys.readouterr().out
    assert "a is stored already" in result
    assert "c is left out: run dvc repro embed@c" in result


def test_a_finished_command_measures_all_again(runs):
    assert names() == names() == ["a", "b"]


def test_what_changed_since_is_measured_again(runs, monkeypatch):
    stopped_after(1)
    TaskPaths("a", runs).bundle.mkdir(parents=True)
    assert names() == ["a", "b"]
    stopped_after(1)
    monkeypatch.setattr(progress, "code_digest", lambda *layers: "other")
    assert names() == ["a", "b"]


def test_a_task_by_name_is_measured_whatever_is_stored_and_changes_nothing(runs):
    stopped_after(1)
    assert names("a") == ["a"]
    assert names() == ["b"]


def test_without_any_task_the_remedy_is_named(runs):
    with pytest.raises(StageError, match="dvc repro embed"):
        names("c")


def test_rows_are_stored_task_by_task(runs, stored, monkeypatch, make_row):
    def measure(paths):
        if paths.task == "b":
            raise StageError("broken", field="b", remedy="Mend it")
        return [make_row(part="it", task=paths.task)]

    monkeypatch.setattr(Part, "load", lambda part: measure)
    monkeypatch.setitem(PARTS, "it", PART)
    with pytest.raises(SystemExit):
        command.main(["it"])
    assert [row.task for row in read()] == ["a"]
    with pytest.raises(SystemExit):
        command.main(["it", "--task", "b"])
    assert [row.task for row in read()] == ["a"]
