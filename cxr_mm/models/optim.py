"""L-BFGS with a strong Wolfe line search (Nocedal and Wright, Numerical Optimization, 2006, ch. 7).

For smooth losses of few parameters over all rows at once: heads, calibration, recalibration.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def minimise(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    *,
    steps: int = 100,
) -> None:
    """Minimise a loss in place.

    Args:
        parameters: leaves that require a gradient.
        loss: their scalar loss, computed anew at each call.
        steps: most iterations.
    """
    optimiser = torch.optim.LBFGS(parameters, max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
