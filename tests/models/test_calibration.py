"""Calibration: better probabilities on studies it has not seen, for each subset and problem."""

import torch

from cxr_mm.core.types import MODALITIES, subsets
from cxr_mm.models.calibration import Calibration, link, log_likelihoods, subset_index, subset_mask

ROWS = 4000


def likelihood(logits, labels):
    return log_likelihoods(logits, labels, "binary").sum()


def binary(seed, sharpness):
    """Labels whose true log odds are z, and a column that is over-confident by `sharpness`."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(ROWS, 1, generator=generator) * 1.5 - 1
    labels = (torch.rand(ROWS, 1, generator=generator) < z.sigmoid()).float()
    return (sharpness * (z + 0.7)).unsqueeze(1), labels


def test_an_over_confident_column_is_brought_back_to_the_true_log_odds():
    columns, labels = binary(0, 4.0)
    calibration = Calibration((None,), outputs=1)
    mask = subset_mask(["image"])
    calibration.fit_subset(mask, columns, labels, "binary", spread=2.0)
    index = int(subset_index(mask))
    torch.testing.assert_close(
        calibration.weight[index, 0, 0], torch.tensor(0.25), rtol=0.1, atol=0
    )
    torch.testing.assert_close(calibration.bias[index, 0], torch.tensor(-0.7), rtol=0.15, atol=0)
    fresh, truth = binary(1, 4.0)
    seen = mask.expand(ROWS, -1)
    assert likelihood(calibration(fresh, seen), truth) > likelihood(fresh.sum(1), truth)


def test_a_narrow_prior_and_few_studies_leave_it_near_the_identity():
    columns, labels = binary(0, 4.0)
    calibration = Calibration((None,), outputs=1)
    mask = subset_mask(["image"])
    calibration.fit_subset(mask, columns[:20], labels[:20], "binary", spread=0.05)
    assert abs(float(calibration.weight[int(subset_index(mask)), 0, 0]) - 1) < 0.2


def test_stacking_trusts_the_column_that_knows_more():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(ROWS, generator=generator) * 2
    labels = (torch.rand(ROWS, generator=generator) < truth.sigmoid()).float().unsqueeze(1)
    noise = torch.randn(ROWS, 3, generator=generator) * torch.tensor([0.3, 3.0, 9.0])
    columns = (truth.unsqueeze(1) + noise).unsqueeze(-1)
    calibration = Calibration(MODALITIES, outputs=1)
    mask = subset_mask(MODALITIES)
    calibration.fit_subset(mask, columns, labels, "binary", spread=2.0)
    weight = calibration.weight[int(subset_index(mask)), :, 0]
    assert weight[0] > 3 * weight[1]
    assert weight[1] > weight[2]


def test_each_subset_has_its_own_and_leaves_the_others_alone():
    columns, labels = binary(0, 4.0)
    calibration = Calibration(MODALITIES, outputs=1)
    calibration.fit_subset(
        subset_mask(["note"]), columns.expand(-1, 3, -1), labels, "binary", spread=2.0
    )
    changed = {int(i) for i in (calibration.weight != 1).any(-1).any(-1).nonzero().flatten()}
    assert changed == {int(subset_index(subset_mask(["note"])))}
    indices = {int(subset_index(subset_mask(s))) for s in subsets(MODALITIES)}
    assert indices == set(range(1, 8))


def test_with_nothing_to_go_by_it_answers_the_prevalence():
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [torch.nan, 1.0], [0.0, 0.0]])
    calibration = Calibration(MODALITIES, outputs=2)
    calibration.fit_prevalence(labels, "multilabel")
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    answer = link(calibration(torch.zeros(1, 3, 2), nothing), "multilabel").float()
    torch.testing.assert_close(answer, torch.tensor([[1 / 3, 1 / 4]]))


def test_a_temperature_mends_multiclass_and_leaves_the_likeliest_class():
    generator = torch.Generator().manual_seed(3)
    truth = torch.randn(ROWS, 3, generator=generator)
    chosen = torch.multinomial(truth.softmax(1), 1, generator=generator).flatten()
    labels = torch.nn.functional.one_hot(chosen, 3).float()
    columns = (4 * truth).unsqueeze(1)
    calibration, mask = Calibration((None,), outputs=3), subset_mask(["image"])
    calibration.fit_subset(mask, columns, labels, "multiclass", spread=2.0)
    logits = calibration(columns, mask.expand(ROWS, -1))
    torch.testing.assert_close(logits, truth, rtol=0.1, atol=0.01)
    assert torch.equal(logits.argmax(1), truth.argmax(1))
    answer = link(logits, "multiclass")
    torch.testing.assert_close(answer.sum(1), torch.ones(ROWS, dtype=answer.dtype))


def test_missing_labels_count_for_nothing():
    columns, labels = binary(0, 4.0)
    half = labels.clone()
    half[ROWS // 2 :] = torch.nan
    mask = subset_mask(["image"])
    known, masked = Calibration((None,), 1), Calibration((None,), 1)
    known.fit_subset(mask, columns[: ROWS // 2], labels[: ROWS // 2], "binary", 1.0)
    masked.fit_subset(mask, columns, half, "binary", 1.0)
    torch.testing.assert_close(known.weight, masked.weight, rtol=1e-3, atol=1e-3)


def bent(seed):
    """A column that is too sharp below nought and too dull above: no line can fix it."""
    columns, labels = binary(seed, 1.0)
    return torch.where(columns < 0, 3 * columns, columns / 3), labels


def fitted(columns, labels, studies=1000, rarer=100):
    calibration, mask = Calibration((None,), outputs=labels.shape[1]), subset_mask(["note"])
    calibration.fit_subset(mask, columns, labels, "multilabel", spread=0.5)
    parametric = calibration(columns, mask.expand(len(columns), -1))
    calibration.fit_isotonic(mask, columns, labels, studies, rarer)
    return calibration, mask, parametric


def test_the_isotonic_step_mends_a_bend_on_studies_it_has_not_seen():
    columns, labels = bent(0)
    calibration, mask, _ = fitted(columns, labels)
    fresh, truth = bent(1)
    seen = mask.expand(ROWS, -1)
    found = likelihood(calibration(fresh, seen), truth)
    calibration.shift.zero_()
    assert found > likelihood(calibration(fresh, seen), truth) + 0.005 * ROWS


def test_it_keeps_the_order_of_the_studies_and_the_gradient_alive():
    columns, labels = bent(0)
    calibration, mask, parametric = fitted(columns, labels)
    shown = columns.clone().requires_grad_()
    logits = calibration(shown, mask.expand(ROWS, -1))
    assert not torch.equal(logits, parametric)
    rising = logits[parametric[:, 0].argsort(), 0].diff()
    assert (rising >= 0).all()
    logits.sum().backward()
    assert (shown.grad > 0).all()
    far = torch.tensor([-1e4, 1e4]).reshape(2, 1, 1)
    assert calibration(far, mask.expand(2, -1)).isfinite().all()


def test_it_is_taken_finding_by_finding_by_the_number_of_studies():
    columns, labels = bent(0)
    two = torch.cat([labels, labels], dim=1)
    rare = (labels[:, 0] == 1).nonzero()[99:, 0]
    two[rare, 1] = torch.nan  # 99 positives are left
    calibration, mask, _ = fitted(columns.expand(-1, -1, 2), two)
    moved = calibration.shift.abs().amax(-1) > 0
    assert moved[int(subset_index(mask))].tolist() == [True, False]
    assert int(moved.sum()) == 1
    calibration, _, parametric = fitted(columns, labels, studies=ROWS + 1)
    assert torch.equal(calibration(columns, mask.expand(ROWS, -1)), parametric)


def test_fitted_again_the_parametric_way_nothing_of_it_is_left():
    columns, labels = bent(0)
    calibration, mask, parametric = fitted(columns, labels)
    calibration.fit_subset(mask, columns, labels, "multilabel", spread=0.5)
    torch.testing.assert_close(calibration(columns, mask.expand(ROWS, -1)), parametric)


def test_it_survives_a_save():
    columns, labels = bent(0)
    calibration, mask, _ = fitted(columns, labels)
    again = Calibration((None,), outputs=1)
    again.load_state_dict(calibration.state_dict())
    seen = mask.expand(ROWS, -1)
    assert torch.equal(again(columns, seen), calibration(columns, seen))


def test_a_balanced_calibration_is_right_where_the_classes_are_as_frequent():
    generator = torch.Generator().manual_seed(0)
    mask = subset_mask(["image"])
    for share, problem in ((0.8, "binary"), (0.3, "binary")):
        labels = (torch.rand(ROWS, 1, generator=generator) < share).float()
        columns = (2 * labels - 1 + torch.randn(ROWS, 1, generator=generator)).unsqueeze(1)
        calibration = Calibration((None,), outputs=1)
        calibration.fit_subset(mask, columns, labels, problem, spread=2.0)
        calibration.fit_isotonic(mask, columns, labels, 1000, 100)
        calibration.balance(mask, labels, problem)
        result = calibration(columns, mask.expand(ROWS, -1)).sigmoid()
        for answer in (0, 1):  # log odds of two normals at -1 and 1: twice the value
            own = labels[:, 0] == answer
            expected = (2 * columns[own, 0]).sigmoid()
            assert float((result[own] - expected).abs().mean()) < 0.03


def test_balanced_classes_of_a_choice_lose_their_prevalence():
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.7, 0.2, 0.1])
    chosen = torch.multinomial(shares, ROWS, True, generator=generator)
    labels = torch.eye(3)[chosen]
    columns = shares.log().expand(ROWS, 1, 3)
    calibration, mask = Calibration((None,), outputs=3), subset_mask(["image"])
    calibration.fit_subset(mask, columns, labels, "multiclass", spread=2.0)
    calibration.balance(mask, labels, "multiclass")
    result = link(calibration(columns[:1], mask.expand(1, -1)), "multiclass")
    torch.testing.assert_close(result, torch.full((1, 3), 1 / 3).double(), rtol=0, atol=0.02)
