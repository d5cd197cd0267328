"""Calibration: better probabilities on studies it has not seen, for each subset and problem."""

import torch

from cxr_mm.contracts.modality import MODALITIES, subsets
from cxr_mm.models.calibration import (
    Calibration,
    link,
    log_likelihood,
    subset_index,
    subset_mask,
)

ROWS = 4000


def binary(seed, sharpness):
    """Labels whose true log odds are z, and a column that is over-confident by `sharpness`."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(ROWS, 1, generator=generator) * 1.5 - 1
    labels = (torch.rand(ROWS, 1, generator=generator) < z.sigmoid()).float()
    return (sharpness * (z + 0.7)).unsqueeze(1), labels


def test_an_over_confident_column_is_brought_back_to_the_true_log_odds():
    columns, labels = binary(0, 4.0)
    calibration = Calibration(columns=1, outputs=1)
    mask = subset_mask(["image"])
    calibration.fit_subset(mask, columns, labels, "binary", spread=2.0)
    index = int(subset_index(mask))
    torch.testing.assert_close(
        calibration.weight[index, 0, 0], torch.tensor(0.25), rtol=0.1, atol=0
    )
    torch.testing.assert_close(calibration.bias[index, 0], torch.tensor(-0.7), rtol=0.15, atol=0)
    fresh, truth = binary(1, 4.0)
    seen = mask.expand(ROWS, -1)
    assert log_likelihood(calibration(fresh, seen), truth, "binary") > log_likelihood(
        fresh.sum(1), truth, "binary"
    )


def test_a_narrow_prior_and_few_studies_leave_it_near_the_identity():
    columns, labels = binary(0, 4.0)
    calibration = Calibration(columns=1, outputs=1)
    mask = subset_mask(["image"])
    calibration.fit_subset(mask, columns[:20], labels[:20], "binary", spread=0.05)
    assert abs(float(calibration.weight[int(subset_index(mask)), 0, 0]) - 1) < 0.2


def test_stacking_trusts_the_column_that_knows_more():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(ROWS, generator=generator) * 2
    labels = (torch.rand(ROWS, generator=generator) < truth.sigmoid()).float().unsqueeze(1)
    noise = torch.randn(ROWS, 3, generator=generator) * torch.tensor([0.3, 3.0, 9.0])
    columns = (truth.unsqueeze(1) + noise).unsqueeze(-1)
    calibration = Calibration(columns=3, outputs=1)
    mask = subset_mask(MODALITIES)
    calibration.fit_subset(mask, columns, labels, "binary", spread=2.0)
    weight = calibration.weight[int(subset_index(mask)), :, 0]
    assert weight[0] > 3 * weight[1]
    assert weight[1] > weight[2]


def test_each_subset_has_its_own_and_leaves_the_others_alone():
    columns, labels = binary(0, 4.0)
    calibration = Calibration(columns=3, outputs=1)
    calibration.fit_subset(
        subset_mask(["note"]), columns.expand(-1, 3, -1), labels, "binary", spread=2.0
    )
    changed = {int(i) for i in (calibration.weight != 1).any(-1).any(-1).nonzero().flatten()}
    assert changed == {int(subset_index(subset_mask(["note"])))}
    indices = {int(subset_index(subset_mask(s))) for s in subsets(MODALITIES)}
    assert indices == set(range(1, 8))


def test_with_nothing_to_go_by_it_answers_the_prevalence():
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [torch.nan, 1.0], [0.0, 0.0]])
    calibration = Calibration(columns=3, outputs=2)
    calibration.fit_prevalence(labels, "multilabel")
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    answer = link(calibration(torch.zeros(1, 3, 2), nothing), "multilabel").float()
    torch.testing.assert_close(answer, torch.tensor([[1 / 3, 1 / 4]]))


def test_multiclass_probabilities_sum_to_one_and_biases_follow_the_classes():
    generator = torch.Generator().manual_seed(0)
    chosen = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), ROWS, True, generator=generator)
    labels = torch.nn.functional.one_hot(chosen, 3).float()
    columns = torch.zeros(ROWS, 1, 3)
    calibration = Calibration(columns=1, outputs=3)
    mask = subset_mask(["image"])
    calibration.fit_subset(mask, columns, labels, "multiclass", spread=0.5)
    answer = link(calibration(columns[:1], mask.unsqueeze(0)), "multiclass").float()
    torch.testing.assert_close(answer.sum(), torch.tensor(1.0))
    torch.testing.assert_close(answer[0], labels.mean(0), atol=0.02, rtol=0)


def test_missing_labels_count_for_nothing():
    columns, labels = binary(0, 4.0)
    half = labels.clone()
    half[ROWS // 2 :] = torch.nan
    mask = subset_mask(["image"])
    known, masked = Calibration(1, 1), Calibration(1, 1)
    known.fit_subset(mask, columns[: ROWS // 2], labels[: ROWS // 2], "binary", 1.0)
    masked.fit_subset(mask, columns, half, "binary", 1.0)
    torch.testing.assert_close(known.weight, masked.weight, rtol=1e-3, atol=1e-3)
