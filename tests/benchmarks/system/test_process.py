"""Part `process`: a process is measured alone, and its figures become rows of both settings."""

import subprocess

import pytest

from benchmarks.harness.process import Usage, run_process
from benchmarks.system import process
from benchmarks.system.process import EVERY, PREDICTION


def test_a_process_is_measured_without_the_memory_of_the_one_that_starts_it():
    held = bytearray(400 * 2**20)
    usage = run_process("this")
    assert len(held) > 0
    assert 1 < usage.peak < 200
    assert 0 < usage.user + usage.system < 5
    assert usage.wall > 0
    assert usage.faults > 0


def test_a_process_that_fails_is_an_error_unless_its_code_is_accepted():
    with pytest.raises(subprocess.CalledProcessError):
        run_process("no_such_module")
    assert run_process("no_such_module", accepted=(1,)).wall > 0


def test_settings_take_turns_and_become_rows(tmp_path, monkeypatch):
    runs = []

    def run(module, *words, folder, environment=None):
        runs.append(environment and environment["CXR_MM_MALLOC"])
        plain = runs[-1] == "0"
        return Usage(2.0, 4.0 if plain else 1.0, 1.0, 300.0, 2000 if plain else 100)

    monkeypatch.setattr(process, "run_process", run)
    monkeypatch.setattr(process, "make_project", lambda folder: folder)
    monkeypatch.setattr(process, "commands", lambda small: {PREDICTION: ["predict"]})
    rows = process.measure()
    assert runs == [None, *("1", "0") * 3]
    values = {(r.table, r.row.removeprefix(f"{PREDICTION}: "), r.metric): r for r in rows}
    assert values[EVERY, "freed memory kept", "user seconds"].value == 1.0
    assert values[EVERY, "glibc as it is", "page faults"].value == 2000
    assert values[EVERY, "without / with", "user seconds"].value == 4.0
    cold = values["", PREDICTION, "seconds of processor time"]
    assert (cold.value, cold.must, cold.met, cold.n) == (2.0, 3.0, "met", 3)
