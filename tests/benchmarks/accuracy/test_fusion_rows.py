"""Rows of part `fusion`: figures of the right studies, differences of the same ones, targets."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.accuracy.fusion import EVERY, Compared, rows_of
from cxr_mm.core.config import EvaluateParams, FuseParams
from cxr_mm.core.task import load_task

SUBSETS = ("image", "tabular", "note", "image+note", "image+tabular+note")
EVALUATE = EvaluateParams(bootstrap=200)


def table(gaps, seed, names=("icu",)):
    """Predictions of 200 studies; notes are missing in every fourth."""
    rng = np.random.default_rng(seed)
    truth = {name: np.random.default_rng(i).integers(0, 2, 200) for i, name in enumerate(names)}
    frames = []
    for subset, gap in gaps.items():
        rows = pd.DataFrame({"study_id": [f"s{n}" for n in range(200)], "subset": subset})
        rows["group"] = [f"p{n // 2}" for n in range(200)]
        for name in names:
            rows[f"label.{name}"] = truth[name].astype(float)
            logit = gap * (truth[name] - 0.5) + rng.normal(size=200)
            rows[f"probability.{name}"] = 1 / (1 + np.exp(-logit))
        frames.append(rows[::-1] if "note" not in subset else rows[np.arange(200) % 4 > 0])
    return pd.concat(frames, ignore_index=True)


def compared(names=("icu",)):
    gaps = dict(zip((*SUBSETS, "available"), (1, 0.5, 0.8, 3, 4, 3), strict=True))
    weaker = {s: 0.5 * g for s, g in gaps.items() if s != "available"}
    return {
        "late": Compared(table(gaps, 1, names), 3.0),
        "specialist late": Compared(table(weaker, 2, names), 5.0),
        "specialist concat": Compared(table(dict.fromkeys(weaker, 9), 3, names), 5.0),
    }


@pytest.fixture(scope="module")
def rows():
    return rows_of(load_task("icu"), compared(), FuseParams(), EVALUATE)


def one(rows, **said):
    found = [r for r in rows if all(getattr(r, key) == value for key, value in said.items())]
    assert len(found) == 1
    return found[0]


def test_auc_is_of_the_studies_that_have_the_subset(rows):
    found = one(rows, table=EVERY, row="note: late", metric="auc")
    frame = compared()["late"].table
    frame = frame[frame["subset"] == "note"]
    assert found.value == pytest.approx(
        roc_auc_score(frame["label.icu"], frame["probability.icu"]), abs=1e-5
    )
    assert found.n == 150
    assert found.ci95[0] < found.value < found.ci95[1]
    assert found.seconds == 3.0


def test_the_specialist_it_is_held_against_is_the_best(rows):
    found = one(rows, table="", row="image: late minus specialist concat")
    assert found.value < -0.1
    assert found.met == "not met"
    assert found.p < 0.05
    assert not [r for r in rows if r.row.endswith("minus specialist late")]


def test_the_best_single_is_taken_from_the_same_studies(rows):
    found = one(rows, table="", row="image+note minus image alone")
    frame = compared()["late"].table
    both = frame[frame["subset"] == "image+note"]
    alone = frame[(frame["subset"] == "image") & frame["study_id"].isin(both["study_id"])]
    aucs = [roc_auc_score(f["label.icu"], f["probability.icu"]) for f in (both, alone)]
    assert found.value == pytest.approx(aucs[0] - aucs[1], abs=1e-5)
    assert found.p < 0.05
    assert not [r for r in rows if r.row.startswith("image minus")]


def test_a_difference_is_paired(rows):
    separate = one(rows, row="image: specialist late", metric="auc minus late")
    wide = one(rows, row="image: specialist late", metric="auc")
    assert separate.ci95[1] - separate.ci95[0] < 1.5 * (wide.ci95[1] - wide.ci95[0])
    found = rows_of(
        load_task("icu"),
        {k: Compared(compared()["late"].table, 1.0) for k in ("late", "concat")},
        FuseParams(),
        EVALUATE,
    )
    same = one(found, row="image: concat", metric="auc minus late")
    assert (same.value, same.ci95) == (0.0, (0.0, 0.0))


def test_the_made_up_task_alone_must_be_calibrated_and_gain_for_sure():
    task = load_task("synthetic")
    made_up = rows_of(task, compared(task.finding_names), FuseParams(), EVALUATE)
    error = one(made_up, table="", row="available: late", metric="ece")
    assert (error.must, error.ceiling) == (0.05, True)
    gain = one(made_up, row="image+note minus image alone", metric="auc")
    assert (gain.must, gain.met) == (0.0, "met" if gain.ci95[0] >= 0 else "not shown")


def test_of_real_tasks_calibration_and_gain_are_reported(rows):
    assert one(rows, table="", row="available: late", metric="ece").must is None
    assert one(rows, row="image+note minus image alone", metric="auc").must is None
