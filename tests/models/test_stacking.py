"""Stacking: parts of a modality, weighed by how well they predict studies unseen."""

import pytest
import torch

from cxr_mm.models.calibration import Calibration, blend, log_likelihoods, subset_index, subset_mask

ROWS = 600
FOLD = torch.arange(ROWS) % 5


def evidence(noise, seed=0):
    """Labels, and columns (N, J, 1) that know their log odds up to so much noise each."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(ROWS, generator=generator) * 2
    labels = (torch.rand(ROWS, generator=generator) < truth.sigmoid()).float().unsqueeze(1)
    spoilt = torch.randn(ROWS, len(noise), generator=generator) * torch.tensor(noise)
    return (truth.unsqueeze(1) + spoilt).unsqueeze(-1), labels


def test_parts_that_only_disturb_are_left_out():
    columns, labels = evidence([20.0, 20.0, 0.1])
    weight = blend(columns, labels, "binary", 0.5, FOLD)[:, 0]
    assert weight[:2].abs().max() < 0.02
    assert weight[2] > 0.5


def test_parts_that_know_what_the_last_does_not_are_kept():
    columns, labels = evidence([0.5, 0.5, 4.0])
    weight = blend(columns, labels, "binary", 0.5, FOLD)[:, 0]
    assert weight[:2].min() > 0.3


def test_each_finding_chooses_for_itself():
    first, labels = evidence([20.0, 20.0, 0.1])
    second, others = evidence([0.5, 0.5, 4.0], seed=1)
    columns, both = torch.cat([first, second], dim=2), torch.cat([labels, others], dim=1)
    weight = blend(columns, both, "multilabel", 0.5, FOLD)
    assert weight[:2, 0].abs().max() < 0.02
    assert weight[:2, 1].min() > 0.3


def test_with_one_fold_nothing_can_be_foretold_and_all_parts_are_taken():
    columns, labels = evidence([20.0, 20.0, 0.1])
    weight = blend(columns, labels, "binary", 0.5, torch.zeros(ROWS))
    assert (weight > 0).all()


def test_parts_are_joined_alike_whatever_else_is_shown():
    columns, labels = evidence([1.0, 1.0, 0.5, 2.0])
    calibration = Calibration(("image", "image", "image", "note"), outputs=1)
    calibration.fit_parts("image", columns, labels, "binary", 0.5, FOLD)
    ratios = []
    for subset in (["image"], ["image", "note"]):
        mask = subset_mask(subset)
        calibration.fit_subset(mask, columns, labels, "binary", 0.5)
        weight = calibration.weight[int(subset_index(mask)), :, 0]
        ratios.append(weight[:3] / weight[0])
        assert bool(weight[3] > 0) == ("note" in subset)
    torch.testing.assert_close(*ratios)


def test_likelihoods_are_per_finding_and_leave_unknown_labels_out():
    logits, labels = torch.randn(6, 3), torch.tensor([[1.0, 0.0, torch.nan]] * 6)
    found = log_likelihoods(logits, labels, "multilabel")
    expected = [logits[:, 0].sigmoid().log().sum(), (-logits[:, 1]).sigmoid().log().sum(), 0.0]
    torch.testing.assert_close(found, torch.tensor([float(e) for e in expected]))
    chosen = torch.nn.functional.one_hot(torch.arange(6) % 3, 3).float()
    whole = log_likelihoods(logits, chosen, "multiclass")
    assert whole.shape == (1,)
    assert float(whole) == pytest.approx(float((logits.log_softmax(1) * chosen).sum()), rel=1e-5)
