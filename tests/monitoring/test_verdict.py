"""Verdicts on made-up windows: silent without drift, right about its cause with it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from monitoring.verdict import evaluate_window
from tests.monitoring.conftest import whole


def test_few_undrifted_windows_alarm(window, frozen):
    status = [
        evaluate_window(whole(window(60, seed)), frozen).verdict.status
        for seed in range(1000, 1030)
    ]
    assert np.mean([s == "alarm" for s in status]) <= 0.12
    assert status.count("ok") > 20


def test_few_undrifted_labelled_windows_alarm(window, frozen):
    verdicts = [
        evaluate_window(whole(window(80, seed, labelled=True)), frozen).verdict
        for seed in range(2000, 2016)
    ]
    assert np.mean([v.status == "alarm" for v in verdicts]) <= 0.125
    assert all(v.n_labelled == 80 for v in verdicts)


@pytest.mark.parametrize(
    ("drift", "cause"),
    [
        ({"age": 1.0}, "clinical.age"),
        ({"crp_missing": 0.5}, "clinical.crp.missing"),
        ({"women": 0.15}, "clinical.sex"),
        ({"exposure": 1.2}, "quality.exposure"),
        ({"image_shift": 1.5}, "image_pc"),
        ({"note": 0.3}, "has.note"),
        ({"logit_shift": 1.5}, "probability.pneumonia"),
    ],
)
def test_drift_alarms_and_its_cause_comes_first(window, frozen, drift, cause):
    verdict = evaluate_window(whole(window(150, 5, **drift)), frozen).verdict
    assert verdict.status == "alarm"
    assert verdict.reasons[0].name == cause
    assert verdict.reasons[0].text in verdict.headline
    assert "without labels it is unknown" in verdict.headline


def test_flipped_labels_are_concept_drift_and_no_data_drift(window, frozen):
    verdict = evaluate_window(whole(window(150, 11, labelled=True, slope=-1.0)), frozen).verdict
    assert verdict.status == "alarm"
    assert {r.drift for r in verdict.reasons if r.level == "alarm"} == {"concept"}
    assert "pneumonia.auc" in {r.name for r in verdict.reasons}
    assert "same inputs now mean other" in verdict.headline


def test_moved_inputs_with_the_old_concept_are_data_drift_only(window, frozen):
    verdict = evaluate_window(whole(window(150, 12, labelled=True, age=1.2)), frozen).verdict
    assert {r.drift for r in verdict.reasons} == {"data"}
    assert "does not do measurably worse" in verdict.headline


def test_small_window_is_not_judged(window, frozen):
    report = evaluate_window(whole(window(19, 3, age=5.0)), frozen)
    assert report.verdict.status == "too_small"
    assert report.checks == []
    assert "19 studies: too few" in report.verdict.line
    assert evaluate_window(whole(window(20, 3, age=5.0)), frozen).verdict.status == "alarm"


def test_too_few_labels_are_said(window, frozen):
    table = window(60, 4, labelled=True)
    table.loc[10:, "label.pneumonia"] = np.nan
    report = evaluate_window(whole(table), frozen)
    assert report.concept == ()
    assert any("10 labelled studies" in note for note in report.verdict.notes)


def test_the_window_and_the_longer_one_share_the_rate_and_what_lasts_gets_less(window, frozen):
    own, before = (window(60, seed, labelled=True) for seed in (4, 5))
    longer = pd.concat([before, own], ignore_index=True)
    both = evaluate_window(replace(whole(own), longer=longer), frozen).concept
    assert [(result.longer, result.part) for result in both] == [(False, 0.5), (True, 0.25)]
    (alone,) = evaluate_window(
        replace(whole(own), labelled=own[:10], longer=longer), frozen
    ).concept
    assert (alone.longer, alone.part) == (True, 0.5)
    (only,) = evaluate_window(whole(own), frozen).concept
    assert (only.longer, only.part) == (False, 1.0)
    assert alone.limit(0.05) == replace(alone, part=1.0).limit(0.025) > alone.limit(0.2)
