"""The command: parts by name, each stored as it finishes, the rest going on after an error."""

import sys
from contextlib import nullcontext

import pytest
import torch

import benchmarks.__main__
from benchmarks.__main__ import main
from benchmarks.harness.parts import PARTS, Part
from benchmarks.harness.report import read
from cxr_mm.core.errors import StageError


@pytest.fixture
def two_parts(monkeypatch, make_row):
    """`good` gives a row; `bad` fails."""

    def fail():
        raise StageError("nothing there", field="bad", remedy="Make it")

    found = {"good": lambda: [make_row("good")], "bad": fail}
    monkeypatch.setattr(Part, "load", lambda part: found[part.measure])
    for name in list(PARTS):
        monkeypatch.delitem(PARTS, name)
    for name in ("bad", "good"):
        monkeypatch.setitem(PARTS, name, Part(measure=name, about="what", takes="1 minute"))


def test_an_unknown_part_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["no-such-part"])
    assert ", ".join(PARTS) in capsys.readouterr().out


def test_a_part_that_fails_does_not_keep_the_others_from_being_stored(stored, two_parts, capsys):
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert [row.table for row in read()] == ["good"]
    assert "error: bad: bad: nothing there. Make it." in capsys.readouterr().err


def test_what_has_to_be_asked_for_is_not_measured_unasked(stored, two_parts, monkeypatch):
    monkeypatch.setitem(
        PARTS, "bad", Part(measure="bad", about="what", takes="1 minute", run_by_default=False)
    )
    main([])
    assert [row.table for row in read()] == ["good"]


def test_networks_run_on_a_gpu_where_there_is_one_and_the_part_allows_it(
    stored, two_parts, monkeypatch
):
    used = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(
        benchmarks.__main__, "networks_on", lambda d: used.append(d) or nullcontext()
    )
    main(["good"])
    assert read()[0].device.startswith("cpu")
    monkeypatch.setitem(PARTS, "good", PARTS["good"].model_copy(update={"gpu": True}))
    main(["good"])
    assert [str(device) for device in used] == ["cuda"]
    assert read()[0].device == "NVIDIA H200"


def test_memory_that_networks_free_is_kept(stored, two_parts, monkeypatch):
    kept = []
    monkeypatch.setattr(benchmarks.__main__, "keep_freed_memory", lambda: kept.append(True))
    main(["good"])
    assert kept == [True]


def test_the_list_says_what_each_measures_and_how_long_it_takes(capsys):
    main(["--list"])
    result = capsys.readouterr().out
    for name, part in PARTS.items():
        assert name in result
        assert part.about in result
        assert part.takes in result


@pytest.mark.parametrize("name", PARTS)
def test_every_part_leads_to_a_function(name):
    assert callable(PARTS[name].load())


def test_a_part_is_imported_when_it_is_asked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "benchmarks.accuracy.tasks", raising=False)
    part = Part(measure="accuracy.tasks:measure", about="what", takes="1 minute")
    assert "benchmarks.accuracy.tasks" not in sys.modules
    part.load()
    assert "benchmarks.accuracy.tasks" in sys.modules
