"""Doors: one study gets one answer whichever way it is asked, and the same one as before."""

import json
import os

import pytest
import torch

from tests.doors.numbers import (
    DISAGREEMENTS_TODAY,
    RECORD,
    SAME_TOLERANCE,
    WRITE,
    canonical,
    collect,
    differences,
    tolerance,
)

# Gradio sets an option that pandas is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'")
os.environ.setdefault("DO_NOT_TRACK", "1")


@pytest.fixture(scope="module")
def found(folds_project, tmp_path_factory):
    """Collect once, on one thread, so that sums come in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield collect(folds_project, tmp_path_factory.mktemp("doors"))
    torch.set_num_threads(threads)


def test_the_doors_agree(found):
    separate = set()
    for other in ("table", "page", "rest", "python"):
        assert found["command"].keys() == found[other].keys()
        for study, result in found["command"].items():
            theirs = found[other][study]
            assert (result is None) == (theirs is None), study
            for name in result or ():
                if differences(result[name], theirs[name]).get("", 0.0) > SAME_TOLERANCE:
                    separate.add((study, name))
    assert separate == DISAGREEMENTS_TODAY


def test_the_page_explains_as_the_command_does(found):
    command, page = (canonical(found["explain"][door]) for door in ("command", "page"))
    assert max(differences(page, command).values(), default=0.0) <= SAME_TOLERANCE


def test_the_log_keeps_what_the_page_answered(found):
    for study, record in found["log"].items():
        answered = found["page"][study]
        for name, value in answered.items():
            if name.startswith(("probability.", "positive.", "certainty.")) or name == "modalities":
                assert record[name] == value, (study, name)


def test_the_numbers_are_those_of_the_record(found):
    doors = {door: numbers for door, numbers in found.items() if door not in ("python", "rest")}
    recorded = canonical({**doors, "explain": found["explain"]["command"]})
    if os.environ.get(WRITE):
        RECORD.write_text(json.dumps(recorded, indent=0) + "\n", encoding="utf-8")
    off = differences(recorded, json.loads(RECORD.read_text(encoding="utf-8")))
    moved = [(by, path) for path, by in off.items() if by > tolerance(path)]
    most_severe = sorted(moved, reverse=True)
    assert not most_severe, f"{len(most_severe)} values moved, the worst: {most_severe[:20]}"
