import pytest
import torch
from torch import nn

from cxr_mm.models.precision import PLAIN, Precision, choose_precision


class Timed(nn.Module):
    """Moves the clock on by as much as a run in its precision and memory order takes."""

    def __init__(self, clock, milliseconds):
        super().__init__()
        self.layer, self.clock, self.milliseconds = nn.Conv2d(2, 2, 3), clock, milliseconds

    def __deepcopy__(self, memo):
        return self

    def forward(self, images):
        bf16 = torch.is_autocast_enabled("cpu")
        name = "bf16" if bf16 else "fp32" if images.stride(1) == 1 else PLAIN
        self.clock[0] += self.milliseconds[name] / 1000
        return self.layer(images)


@pytest.fixture
def timed(monkeypatch):
    """Makes a model that takes so many milliseconds: fp32, fp32 with channels first, bf16."""
    clock = [0.0]
    monkeypatch.setattr("cxr_mm.models.precision.time.perf_counter", lambda: clock[0])
    return lambda *times: Timed(clock, dict(zip(("fp32", PLAIN, "bf16"), times, strict=True)))


@pytest.mark.parametrize(
    ("milliseconds", "chosen"),
    [
        ((10, 20, 20), ("fp32", True)),
        ((20, 20, 10), ("bf16", True)),
        ((20, 10, 20), ("fp32", False)),
        ((10, 20, 9), ("fp32", True)),
        ((20, 10, 8), ("bf16", True)),
        ((20, 10, 9), ("fp32", False)),
        ((10.1, 10, 20), ("fp32", True)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_the_fastest_is_chosen_by_measuring(timed, milliseconds, chosen, training):
    precision = choose_precision(timed(*milliseconds), torch.randn(2, 2, 8, 8), training=training)
    assert (precision.name, precision.channels_last) == chosen
    for name, taken in zip(("fp32", PLAIN, "bf16"), milliseconds, strict=True):
        assert precision.images_per_second[name] == pytest.approx(2000 / taken)


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
    assert precision.arrange(torch.zeros(1, 2, 3, 4)).stride(1) == 1
    first = Precision("fp32", channels_last=False)
    assert first.arrange(torch.zeros(1, 2, 3, 4)).stride(3) == 1
