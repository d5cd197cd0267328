"""Accelerator: networks of a measurement on a GPU where there is one.

The product answers on the processor. A measurement asks the same networks a million times, and a
GPU gives the same in float32 but for the last bits; rows name it.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cxr_mm.models.bert import Bert
from cxr_mm.models.image_encoder import ImageEncoder

NETWORKS: tuple[type[nn.Module], ...] = (ImageEncoder, Bert)


@contextmanager
def networks_on(device: torch.device) -> Iterator[None]:
    """Run the forward passes of `NETWORKS` on a device, wherever no gradient is asked for.

    Tensors come from the processor and go back to it. Convolutions are in float32, not in the 19
    bits that PyTorch takes for them on a GPU.
    """
    with ExitStack() as stack:
        exactly = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        stack.enter_context(exactly)
        for network in NETWORKS:
            forward = _moved(network.forward, device)
            stack.enter_context(patch.object(network, "forward", forward))
        yield


def _moved(forward: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """The forward pass of a class, on copies of its modules on the device."""
    copies: WeakKeyDictionary[nn.Module, tuple[Any, nn.Module]] = WeakKeyDictionary()

    def moved(self: nn.Module, *given: Tensor) -> Tensor:
        if torch.is_grad_enabled() or given[0].device.type != "cpu":
            return forward(self, *given)
        state = [_version(weight) for weight in (*self.parameters(), *self.buffers())]
        if self not in copies or copies[self][0] != state:
            copies[self] = state, _copied(self, device)
        return forward(copies[self][1], *(tensor.to(device) for tensor in given)).cpu()

    return moved


def _version(weight: Tensor) -> tuple[int, int]:
    """What changes with a weight; one that was copied for inference alone never does."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _copied(network: nn.Module, device: torch.device) -> nn.Module:
    twin = copy.deepcopy(network).to(device)
    if isinstance(twin, Bert):  # its weights are no parameters
        twin.weights = {name: weight.to(device) for name, weight in twin.weights.items()}
    return twin
