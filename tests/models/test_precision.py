import pytest
import torch
from torch import nn

from cxr_mm.models.precision import Precision, choose_precision


class Timed(nn.Module):
    """Moves the clock on, twice as far in one of the two precisions."""

    def __init__(self, clock, slow_in_bf16):
        super().__init__()
        self.layer, self.clock, self.slow_in_bf16 = nn.Conv2d(1, 2, 3), clock, slow_in_bf16

    def __deepcopy__(self, memo):
        return self

    def forward(self, images):
        slow = torch.is_autocast_enabled("cpu") == self.slow_in_bf16
        self.clock[0] += 0.02 if slow else 0.01
        return self.layer(images)


@pytest.mark.parametrize(("slow_in_bf16", "chosen"), [(True, "fp32"), (False, "bf16")])
@pytest.mark.parametrize("training", [True, False])
def test_the_faster_is_chosen_by_measuring(slow_in_bf16, chosen, training, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("cxr_mm.models.precision.time.perf_counter", lambda: clock[0])
    model, images = Timed(clock, slow_in_bf16), torch.randn(2, 1, 8, 8)
    precision = choose_precision(model, images, training=training)
    assert precision.name == chosen
    other = {"fp32": "bf16", "bf16": "fp32"}[chosen]
    assert precision.images_per_second[chosen] == pytest.approx(200)
    assert precision.images_per_second[other] == pytest.approx(100)


def test_measuring_leaves_model_and_chance_alone():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()
    choose_precision(model, torch.randn(2, 1, 8, 8), training=True)
    after = model.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert all(p.grad is None for p in model.parameters())
    torch.set_rng_state(state)
    images = torch.randn(2, 1, 8, 8)
    torch.set_rng_state(state)
    assert torch.equal(images, torch.randn(2, 1, 8, 8))


def test_told_rather_than_measured():
    precision = choose_precision(nn.Identity(), torch.zeros(1), wanted="bf16")
    assert precision == Precision("bf16")
    with precision.autocast():
        assert torch.is_autocast_enabled("cpu")
    with Precision("fp32").autocast():
        assert not torch.is_autocast_enabled("cpu")
    assert precision.arrange(torch.zeros(1, 2, 3, 4)).stride()[1] == 1
