"""Mitigation: a gap that one group's own threshold or calibration closes is closed, at its cost."""

import numpy as np
import pytest
from scipy.special import expit, logit

from cxr_mm.core.config import EvaluateParams
from cxr_mm.evaluation.mitigation import FIXES, measure_mitigation
from cxr_mm.evaluation.report.model_card import model_card
from cxr_mm.evaluation.subsets import subset_rows
from cxr_mm.evaluation.traits import read_traits

PARAMS = EvaluateParams(
    bootstrap=200, characteristics=("view",), mitigate=("thresholds", "recalibrate")
)
F, LOWER = "effusion", 1.5


@pytest.fixture
def case(task_of, table_of, manifest_of):
    """Probabilities that are right, but for view AP, where the logit is 1.5 too low."""
    task = task_of()
    table = table_of(task, n=1500)
    manifest = manifest_of(task, table)
    view = table["study_id"].map(manifest.frame.set_index("study_id")["view"])
    label = np.where(table[f"label.{F}"].isna(), 0.5, table[f"label.{F}"])
    random = np.random.default_rng(1)
    signal = random.normal(size=len(table)) + 2 * (label - 0.5)
    chance = expit(2 * signal + logit(0.4) - LOWER * (view == "AP"))
    table[f"probability.{F}"] = chance
    table[f"threshold.{F}"] = 0.4
    table[f"positive.{F}"] = chance >= 0.4
    return task, table, read_traits(manifest, PARAMS, manifest.frame["study_id"])


def of(case, params=PARAMS):
    found = measure_mitigation(*case, params)
    return found[F]["view"] if found else {}


def test_nothing_is_mitigated_unless_asked(case):
    assert of(case, PARAMS.model_copy(update={"mitigate": ()})) == {}


def test_group_thresholds_close_the_gap_in_sensitivity_and_leave_the_auc(case):
    found = of(case)["thresholds"]
    gap, auc = found["gaps"]["sensitivity"], found["overall"]["auc"]
    assert found["groups"] == ["AP", "PA"]
    assert gap["before"]["value"] > 0.2
    assert gap["after"]["value"] < 0.06
    assert gap["change"]["ci95"][1] < 0
    assert auc["change"]["value"] == 0
    assert found["gaps"]["ece"]["change"]["value"] == 0


def test_group_recalibration_closes_the_gap_in_calibration_and_raises_auc_and_net_benefit(case):
    found = of(case)["recalibrate"]
    assert found["gaps"]["ece"]["before"]["value"] > 0.08
    assert found["gaps"]["ece"]["change"]["ci95"][1] < 0
    assert found["overall"]["auc"]["change"]["ci95"][0] > 0
    assert found["overall"]["net_benefit"]["change"]["ci95"][0] > 0


def test_every_study_is_answered_once_by_what_other_patients_of_its_group_set(case, monkeypatch):
    answered = []

    def recorded(everyone, learn, apply):
        assert not {*everyone.patients, *learn.patients} & {*apply.patients}
        assert {*learn.patients} < {*everyone.patients}
        answered.append(len(apply.scored))
        return apply.scored

    monkeypatch.setitem(FIXES, "thresholds", recorded)
    of(case, PARAMS.model_copy(update={"mitigate": ("thresholds",)}))
    rows = subset_rows(case[1], "available")
    assert sum(answered) == rows[f"label.{F}"].notna().sum()


def test_reweighting_is_compared_with_what_fuse_left_without_it(case):
    task, table, traits = case
    plain = {f"plain.{p}.{F}": table[f"{p}.{F}"] for p in ("probability", "positive", "threshold")}
    ap = table["study_id"].map(traits.frame["view"].astype(str)) == "AP"
    better = expit(logit(table[f"probability.{F}"]) + LOWER * ap)
    table = table.assign(**plain, **{f"probability.{F}": better, f"positive.{F}": better >= 0.4})
    found = of((task, table, traits), PARAMS.model_copy(update={"mitigate": ()}))
    assert list(found) == ["reweight"]
    assert found["reweight"]["gaps"]["sensitivity"]["change"]["ci95"][1] < 0


def test_the_card_has_a_table_of_what_was_asked_for(results_of, case):
    results = results_of()
    assert "What mitigation would bring" not in model_card(results, [])
    results.subgroups["mitigation"] = measure_mitigation(*case, PARAMS)
    try:
        card = model_card(results, [])
    finally:
        results.subgroups["mitigation"] = {}
    assert "| Effusion, `thresholds` by view | " in card
    assert "| Effusion, `recalibrate` by view | " in card
