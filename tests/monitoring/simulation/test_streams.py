"""Streams of made-up studies: drawn without repeats, shifted, evaluated as in service."""

import numpy as np
import pytest

from monitoring.simulation.measure import baseline, false_alarms, preset_drift, slow
from monitoring.simulation.shifts import SHIFTS
from monitoring.simulation.streams import (
    Labelled,
    PredictionPool,
    Stream,
    WindowSpec,
    build_setup,
    evaluate_next,
    next_window,
)

BY_NAME = {shift.name: shift for shift in SHIFTS}
UNIT, PHOTOGRAPHS = BY_NAME["laboratory unit"], BY_NAME["photographs"]
CONCEPT = BY_NAME["concept"]


def with_labels(records, outcomes):
    labels = {o.study_hash: o.label for o in outcomes}
    return [
        Labelled(None, r.study_hash, r.patient_hash, {"pneumonia": labels[r.study_hash]})
        for r in records
    ]


def tenth(record):
    crp = record.clinical["crp"]
    return record.model_copy(
        update={"clinical": {**record.clinical, "crp": None if crp is None else crp / 10}}
    )


@pytest.fixture(scope="module")
def setting(make, frozen):
    """300 of 900 studies are the reference; 200 others were corrupted in two ways."""
    records, known = make(900, 81)
    others, labels = make(200, 82)
    corrupted = {
        (UNIT.name, 1.0): [tenth(record) for record in others],
        (PHOTOGRAPHS.name, 1.0): [None] * len(others),
    }
    shifted = PredictionPool(with_labels(others, labels), list(others), corrupted)
    params = frozen.params.model_copy(update={"window_sizes": (50, 100)})
    rng = np.random.default_rng(0)
    predicted = with_labels(records, known), records
    return build_setup(frozen.task, "d", predicted, shifted, params, 300, rng)


def test_the_reference_and_the_windows_share_no_study(setting):
    assert len(setting.reference.table) == 300
    assert len(setting.fresh) == 600 + 200
    rng, stream = np.random.default_rng(1), Stream()
    spec = WindowSpec(None, 0.0, 100, labels=0.5)
    ages = [next_window(setting, spec, stream, rng).table["clinical.age"] for _ in range(8)]
    assert len(np.unique(np.concatenate(ages))) == len(np.unique(setting.fresh["clinical.age"]))


def test_with_an_empty_pool_windows_are_drawn_from_all_studies_outside_the_reference(setting, make):
    pool, known = make(400, 83)
    given = with_labels(pool, known), pool
    task, params = setting.reference.task, setting.reference.params
    raw = build_setup(
        task, "d", given, PredictionPool([], [], {}), params, 300, np.random.default_rng(0)
    )
    assert len(raw.fresh) == 100
    assert not set(raw.fresh["patient"]) & set(raw.reference.table["patient"])
    assert false_alarms([raw], 50, 0.0, 5).windows == 5


def test_a_share_is_corrupted_and_rejected_images_are_no_studies_but_events(setting):
    rng = np.random.default_rng(2)
    window = next_window(setting, WindowSpec(PHOTOGRAPHS, 0.2, 200), Stream(), rng)
    assert len(window.events) == 200 - len(window.table)
    assert 20 < len(window.events) < 60
    window = next_window(setting, WindowSpec(UNIT, 0.5, 200), Stream(), rng)
    assert window.table["clinical.crp"].median() < 0.7 * setting.fresh["clinical.crp"].median()


def test_labels_come_for_a_share_and_a_new_concept_swaps_them(setting):
    plain = next_window(
        setting, WindowSpec(None, 0.0, 200, 0.5), Stream(), np.random.default_rng(3)
    )
    other = next_window(
        setting, WindowSpec(CONCEPT, 1.0, 200, 0.5), Stream(), np.random.default_rng(3)
    )
    assert 70 < plain.n_labelled < 130
    both = plain.table["label.pneumonia"] + other.table["label.pneumonia"]
    assert (both.dropna() == 1).all()


def test_verdicts_and_labels_are_handed_on(setting):
    stream, rng = Stream(), np.random.default_rng(4)
    spec = WindowSpec(UNIT, 1.0, 100, labels=0.5)
    verdict = evaluate_next(setting, spec, stream, rng)
    assert (verdict.status, verdict.reasons[0].name) == ("alarm", "clinical.crp")
    window = next_window(setting, spec, stream, rng)
    assert window.before == verdict
    assert len(window.longer) > len(window.labelled)


def test_undrifted_windows_seldom_alarm_and_slow_shifts_do_in_time(setting):
    alarms = false_alarms([setting], 50, 0.5, 12)
    assert alarms.windows == 12
    assert alarms.alarms <= 2
    assert alarms.median == alarms.worst == alarms.alarms / 12
    assert all(1 < first <= 10 for first in slow([setting], UNIT, 50, 3))


def test_evidentlys_preset_finds_no_drift_in_a_window_without_studies(setting):
    empty = setting.reference.table.iloc[:0]
    assert preset_drift(empty, setting.reference) == (False, False)


def test_evidentlys_preset_raises_many_false_alarms_by_any_column(setting):
    half, some = baseline([setting], WindowSpec(None, 0.0, 100), 4)
    assert half == 0.0
    assert some > 0.4
