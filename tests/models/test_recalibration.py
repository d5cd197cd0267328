"""Recalibration: changes what the studies show to be wrong, no more; the old bundle stays."""

from dataclasses import replace

import pytest
import torch

from cxr_mm.core.prediction import ConformalBounds, OperatingPoint
from cxr_mm.core.types import MODALITIES, subset_name, subsets
from cxr_mm.models.bundle import RECALIBRATED, load_bundle
from cxr_mm.models.calibration import link, subset_mask
from cxr_mm.models.recalibration import Update, choose_updates, recalibrate


def centre(n, slope=1.0, intercept=0.0, seed=0):
    """Logits z of a model where the log odds are in truth intercept + slope × z, and labels."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 1, generator=generator, dtype=torch.float64) * 2
    chance = (intercept + slope * z).sigmoid()
    return z, (torch.rand(n, 1, generator=generator, dtype=torch.float64) < chance).float()


def chosen(n, slope=1.0, intercept=0.0, seed=0, independent=1.0):
    return choose_updates(*centre(n, slope, intercept, seed), "binary", independent)[0]


def test_a_model_that_is_right_is_left_as_it_is_19_times_in_20():
    stored = [chosen(200, seed=seed).method == "none" for seed in range(40)]
    assert sum(stored) >= 34  # 38 expected; fewer than 34 with a chance of 1 %


def test_another_prevalence_is_met_by_the_intercept_alone():
    update = chosen(1000, intercept=-1.5)
    assert (update.method, update.slope) == ("intercept", 1.0)
    assert update.intercept == pytest.approx(-1.5, abs=0.25)
    assert update.p_any < 1e-6
    assert update.p_slope > 0.05


def test_predictions_that_are_too_extreme_are_met_by_the_slope():
    update = chosen(2000, slope=0.4, intercept=0.7)
    assert update.method == "intercept_and_slope"
    assert update.slope == pytest.approx(0.4, abs=0.07)
    assert update.intercept == pytest.approx(0.7, abs=0.2)


def test_the_fewer_the_studies_the_less_is_changed():
    order = ["none", "intercept", "intercept_and_slope"]
    changes = [
        sum(order.index(chosen(n, 0.75, -0.6, seed).method) for seed in range(20))
        for n in (25, 150, 2000)
    ]
    assert changes == sorted(changes)
    assert changes[0] < 12
    assert changes[2] == 40


def test_studies_of_the_same_patient_say_less():
    z, labels = centre(60, intercept=-0.9, seed=1)
    five = [t.repeat_interleave(5, 0) for t in (z, labels)]
    alone = choose_updates(z, labels, "binary", 1.0)[0]
    repeated = choose_updates(*five, "binary", 0.2)[0]
    naive = choose_updates(*five, "binary", 1.0)[0]
    assert repeated.p_any == pytest.approx(alone.p_any, rel=0.1)
    assert naive.p_any < alone.p_any / 10


def test_a_model_that_ranks_the_wrong_way_round_is_silenced_not_turned_over():
    z, labels = centre(1000, slope=-1.0, intercept=1.0)
    update = choose_updates(z, labels, "binary", 1.0)[0]
    assert 0 < update.slope < 0.1
    answer = (update.slope * z + update.intercept).sigmoid()
    assert float(answer.mean()) == pytest.approx(float(labels.mean()), abs=0.02)
    assert float(answer.std()) < 0.05


def test_separated_classes_do_not_run_away():
    z = torch.linspace(-2, 2, 40, dtype=torch.float64).unsqueeze(1)
    update = choose_updates(z, (z > 0).float(), "binary", 1.0)[0]
    assert 1 < update.slope < 50
    assert abs(update.intercept) < 1e-3


def test_each_finding_is_updated_for_itself_and_missing_labels_count_for_nothing():
    right, wrong = centre(800, seed=2), centre(800, intercept=2.0, seed=3)
    z, labels = (torch.cat(pair, 1) for pair in zip(right, wrong, strict=True))
    more = torch.full((300, 2), 5.0, dtype=torch.float64)
    unknown = torch.full((300, 2), torch.nan)
    updates = choose_updates(torch.cat([z, more]), torch.cat([labels, unknown]), "multilabel", 1.0)
    assert [u.method for u in updates] == ["none", "intercept"]
    assert updates[1].intercept == pytest.approx(2.0, abs=0.3)


def test_classes_share_a_slope_and_answers_meet_their_shares():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3000, 3, generator=generator, dtype=torch.float64) * 2
    truth = (0.5 * z + torch.tensor([1.0, 0.0, -1.0])).softmax(1)
    labels = torch.nn.functional.one_hot(torch.multinomial(truth, 1, generator=generator)[:, 0], 3)
    updates = choose_updates(z.log_softmax(1), labels.float(), "multiclass", 1.0)
    assert {u.method for u in updates} == {"intercept_and_slope"}
    assert len({u.slope for u in updates}) == 1
    assert updates[0].slope == pytest.approx(0.5, abs=0.05)
    shift = torch.tensor([u.intercept for u in updates], dtype=torch.float64)
    answer = link(updates[0].slope * z.log_softmax(1) + shift, "multiclass")
    torch.testing.assert_close(answer.mean(0), labels.double().mean(0), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def bundle(bundle_folder):
    return load_bundle(bundle_folder)


UPDATE = Update(method="intercept_and_slope", slope=0.6, intercept=-0.9, p_any=0.0, p_slope=0.0)
POINT = OperatingPoint(threshold=0.123, reason="youden", sensitivity=0.9, specificity=0.8)


def with_isotonic_step(bundle):
    """The same bundle whose calibration bends the logits of every subset."""
    calibration = bundle.fusion.calibration
    knots = torch.linspace(-3, 3, calibration.knots.shape[-1])
    calibration.knots[:] = knots
    calibration.shift[:] = knots.sin() * 0.3
    return bundle


def columns(bundle, subset, n=40):
    mask = subset_mask(subset).expand(n, -1)
    calibration = bundle.fusion.calibration
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(n, *calibration.weight.shape[1:], generator=generator) * 2
    return values * mask.unsqueeze(-1) if values.shape[1] == len(MODALITIES) else values, mask


def test_the_new_bundle_answers_by_the_update_and_the_old_one_as_before(bundle_folder):
    bundle = with_isotonic_step(load_bundle(bundle_folder))
    subset, other = ("image", "note"), ("tabular",)
    name, second = bundle.task.finding_names
    labels = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    before = {s: bundle.fusion.calibration(*columns(bundle, s)) for s in (subset, other)}
    new = recalibrate(bundle, {subset: {name: UPDATE}}, {}, {}, labels, {"manifest": "x.csv"})
    after = {s: new.fusion.calibration(*columns(new, s)) for s in (subset, other)}
    expected = 0.6 * before[subset][:, 0] - 0.9
    torch.testing.assert_close(after[subset][:, 0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[subset][:, 1], before[subset][:, 1], atol=0, rtol=0)
    torch.testing.assert_close(after[other], before[other], atol=0, rtol=0)
    again = bundle.fusion.calibration(*columns(bundle, subset))
    torch.testing.assert_close(again, before[subset], atol=0, rtol=0)
    # With nothing to go by, the prevalence of the new centre, for what was updated alone.
    torch.testing.assert_close(new.fusion.calibration.bias[0, 0].sigmoid(), torch.tensor(0.75))
    assert new.fusion.calibration.bias[0, 1] == bundle.fusion.calibration.bias[0, 1]
    assert second in new.operating_points[subset_name(subset)]


def test_points_and_bounds_given_take_the_place_of_those_there_were(bundle):
    name, second = bundle.task.finding_names
    bounds = ConformalBounds(coverage=0.8, present_from=0.1, absent_to=0.4)
    new = recalibrate(
        bundle,
        {("note",): {name: UPDATE}},
        {"note": {name: {"youden": POINT}}},
        {"note": {name: bounds}},
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        {},
    )
    assert new.operating_points["note"][name] == {"youden": POINT}
    assert new.operating_points["note"][second] == bundle.operating_points["note"][second]
    assert new.conformal["note"][name] == bounds
    assert new.conformal["image"] == bundle.conformal["image"]
    assert bundle.operating_points["note"][name]["youden"] != POINT
    assert set(new.operating_points) == {subset_name(s) for s in subsets(MODALITIES)}


def test_origin_is_kept_through_several_recalibrations(bundle):
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    first = recalibrate(bundle, {}, {}, {}, labels, {"manifest": "one.csv"})
    second = recalibrate(replace(first, digest="f" * 64), {}, {}, {}, labels, {"manifest": "two"})
    assert second.trained_on[RECALIBRATED] == [
        {"parent": bundle.digest, "manifest": "one.csv"},
        {"parent": "f" * 64, "manifest": "two"},
    ]
    assert RECALIBRATED not in bundle.trained_on
    assert second.trained_on["manifest_sha256"] == bundle.trained_on["manifest_sha256"]
    assert first.digest == ""
    assert "recalibrated" in first.name
    assert "recalibrated" not in bundle.name
