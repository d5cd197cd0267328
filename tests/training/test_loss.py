import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from cxr_mm.training.losses import calibrated_loss, class_weights, masked_loss

NAN = float("nan")


@pytest.mark.parametrize("problem", ["multilabel", "multiclass"])
def test_missing_labels_give_no_gradient(problem):
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([[1, 0, 0], [0, NAN, 1], [NAN, NAN, NAN], [0, 0, 1]])
    masked_loss(logits, labels, problem, torch.ones(2, 3)).backward()
    silent = logits.grad == 0
    missing = labels.isnan()
    if problem == "multiclass":
        missing = missing.any(1, keepdim=True).expand(4, 3)
    assert torch.equal(silent, missing)


def test_all_missing_is_zero_and_differentiable():
    logits = torch.randn(2, 1, requires_grad=True)
    loss = masked_loss(logits, torch.full((2, 1), NAN), "binary", torch.ones(2, 1))
    loss.backward()
    assert loss == 0
    assert logits.grad.abs().sum() == 0


def test_without_weights_it_is_plain_cross_entropy():
    logits, ones = torch.randn(5, 3), torch.ones(2, 3)
    labels = F.one_hot(torch.tensor([0, 2, 1, 1, 0]), 3).float()
    plain = F.binary_cross_entropy_with_logits(logits, labels)
    assert torch.allclose(masked_loss(logits, labels, "multilabel", ones), plain)
    for smoothing in (0.0, 0.1):
        plain = F.cross_entropy(logits, labels.argmax(1), label_smoothing=smoothing)
        found = masked_loss(logits, labels, "multiclass", ones, smoothing)
        assert torch.allclose(found, plain)


def test_class_weights_give_each_class_the_same_say():
    labels = torch.tensor([[1.0], [0.0], [0.0], [0.0], [NAN]])
    absent, present = class_weights(labels, "binary").flatten().tolist()
    assert present == pytest.approx(2.0)
    assert 3 * absent == pytest.approx(present)
    many = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]])
    assert class_weights(many, "multiclass")[1].tolist() == pytest.approx([4 / 9, 4 / 3, 1.0])


def test_calibrated_loss_forgives_scale_and_shift_but_not_a_worse_order():
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (200, 1)).float()
    logits = labels * 2 - 1 + torch.randn(200, 1)
    ones = torch.ones(2, 1)
    loss = calibrated_loss(logits, labels, "binary", ones)
    assert calibrated_loss(logits * 20 + 5, labels, "binary", ones) == pytest.approx(loss, rel=0.05)
    assert calibrated_loss(-logits, labels, "binary", ones) > loss + 0.2
    assert loss <= masked_loss(logits, labels, "binary", ones) + 1e-4
