"""Accelerator: the same answers from copies of the networks, which follow their weights."""

import torch
from torch import Tensor

from benchmarks.harness.accelerator import networks_on
from cxr_mm.models.image_encoder import ImageEncoder, build_image_encoder

CPU = torch.device("cpu")


def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    return build_image_encoder("small_cnn", 32, 1, weights="none").eval()


@torch.inference_mode()
def embedded(own: ImageEncoder) -> Tensor:
    return own(torch.linspace(-1, 1, 2048).reshape(2, 1, 32, 32))


def test_copies_answer_as_the_network_does_also_after_its_weights_have_changed():
    own = encoder()
    with networks_on(CPU):
        before = embedded(own)
        with torch.no_grad():
            own.backbone.get_parameter(next(iter(own.backbone.state_dict()))).mul_(2)
        after = embedded(own)
    assert torch.equal(after, embedded(own))
    assert not torch.equal(before, after)


def test_a_gradient_comes_from_the_network_itself():
    own = encoder()
    with networks_on(CPU):
        own(torch.zeros(1, 1, 32, 32)).sum().backward()
    assert all(weight.grad is not None for weight in own.backbone.parameters())


def test_the_networks_are_themselves_again_afterwards():
    before = ImageEncoder.forward
    with networks_on(CPU):
        assert ImageEncoder.forward is not before
    assert ImageEncoder.forward is before
