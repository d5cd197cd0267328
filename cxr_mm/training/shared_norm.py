"""Batch normalisation over the batch of all devices.

`torch.nn.SyncBatchNorm` needs a GPU, and its conversion of a network drops the activation of timm's
`BatchNormAct2d`. Here every call of `batch_norm` is answered, whichever module makes it.
"""

from typing import Any

import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, no_grad
from torch.autograd import Function
from torch.overrides import TorchFunctionMode


class SharedBatchNorm(TorchFunctionMode):
    """Context in which `batch_norm`, in training, normalises by the images of all devices.

    Each device has to come with as many images. Gradients go through the shared statistics too.
    """

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer `batch_norm`, and leave every other function as it is."""
        if function is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise (B, C, …) by channel as `torch.nn.functional.batch_norm` does, over all devices."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    others = [0, *range(2, input.ndim)]
    mean = _mean(input.float().mean(others))
    shape = [1, -1, *[1] * (input.ndim - 2)]
    centred = input.float() - mean.view(shape)
    variance = _mean(centred.square().mean(others))
    if running_mean is not None and running_var is not None:
        count = input.numel() / input.shape[1] * dist.get_world_size()
        with no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * count / (count - 1), momentum)
    result = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None and bias is not None:
        result = result * weight.view(shape) + bias.view(shape)
    return result.to(input.dtype)


class _Sum(Function):
    """Sum over the devices, of values and of their gradients."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        result = value.clone()
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        result = gradient.clone()
        dist.all_reduce(result)
        return result


def _mean(value: Tensor) -> Tensor:
    """Mean over the devices."""
    shared: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return shared / dist.get_world_size()
