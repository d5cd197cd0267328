"""Each shift changes what its name says, and nothing else."""

import numpy as np
import pytest

from cxr_mm.core.study import Study
from cxr_mm.core.task import load_task
from monitoring.simulation.shifts import SHIFTS, identifies, possible

TASK = load_task("synthetic")
IMAGE = np.random.default_rng(0).random((60, 50), dtype=np.float32)
STUDY = Study(
    "s",
    image=IMAGE,
    clinical={"age": 60.0, "crp": 120.0, "sex": "female"},
    note="The patient has had a fever and a cough for three days.",
)
ALTERING = [shift for shift in SHIFTS if shift.alter]


@pytest.mark.parametrize("shift", ALTERING, ids=lambda s: s.name)
def test_a_shift_touches_its_own_modality_alone(shift):
    after = shift.alter(STUDY, shift.sizes[-1], np.random.default_rng(1), TASK)
    touched = {
        "image": after.image is not STUDY.image,
        "note": after.note != STUDY.note,
        "clinical": after.clinical != STUDY.clinical,
    }
    own = {"age": "clinical", "number": "clinical"}.get(shift.needs, shift.needs)
    assert touched == {name: name == own for name in touched}
    if own == "image":
        assert after.image.dtype == np.float32
        assert 0 <= after.image.min() <= after.image.max() <= 1
        assert after.quality == {}


@pytest.mark.parametrize("shift", ALTERING, ids=lambda s: s.name)
def test_a_study_without_the_modality_stays_as_it_is(shift):
    raw = Study("s", clinical={"sex": "male"})
    after = shift.alter(raw, 1.0, np.random.default_rng(1), TASK)
    assert (after.image, after.note) == (None, None)
    assert after.clinical["sex"] == "male"


def test_sizes_grow():
    for shift in SHIFTS:
        effect = [abs(np.log(s)) if "scanner" in shift.name and s > 0.5 else abs(s)
                  for s in shift.sizes]  # fmt: skip
        if shift.name != "scanner contrast":
            assert effect == sorted(effect), shift.name


def test_only_what_a_task_has_can_shift():
    images = load_task("pneumonia")
    names = {shift.name for shift in SHIFTS if possible(shift, images)}
    assert "scanner noise" in names
    assert not names & {"note language", "laboratory unit", "children"}


@pytest.mark.parametrize(
    ("shift", "reason", "right"),
    [
        ("scanner noise", ("quality.noise", "data"), True),
        ("scanner noise", ("clinical.age", "data"), False),
        ("laboratory unit", ("clinical.crp", "data"), True),
        ("laboratory unit", ("clinical.crp.missing", "data"), False),
        ("feature missing", ("clinical.crp.missing", "data"), True),
        ("prevalence up", ("prevalence", "data"), True),
        ("prevalence up", ("probability.effusion", "data"), False),
        ("concept", ("effusion.auc", "concept"), True),
        ("concept", ("prevalence", "data"), False),
    ],
)
def test_blame_is_right_only_for_the_cause(shift, reason, right):
    found = next(s for s in SHIFTS if s.name == shift)
    assert identifies(found, TASK, *reason) == right
