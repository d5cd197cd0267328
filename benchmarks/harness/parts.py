"""Parts: what can be measured, and the rows that it gives."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Literal

import yaml
from scipy.stats import norm

from cxr_mm.core.types import Frozen

BACKBONES = {"tf_efficientnet_lite0": "packaged", "small_cnn": "none", "resnet18": "none"}
"""Networks whose speed is measured → their weights."""


Met = Literal["met", "not shown", "not met"]


class Row(Frozen):
    """One measured figure.

    `value` is in the metric's own unit; `ci95` over patients where it is a metric of studies.
    """

    part: str = ""
    """As `make benchmark PART=…` names it; filled in where the row is stored, like `device`."""
    table: str = ""
    """A name of its own for one of several tables of a part; where empty, the part's name."""
    task: str
    row: str
    metric: str
    value: float
    ci95: tuple[float, float] | None = None
    reference: float | None = None
    """What it is to be compared with, which the part's `compare` names; 0 for a difference."""
    claimed: float | None = None
    """What others reported."""
    must: float | None = None
    aim: float | None = None
    ceiling: bool = False
    """`must` and `aim` are the most, not the least, that the value may be."""
    n: int
    seed: int | None = None
    seconds: float | None = None
    device: str = ""

    @property
    def on_gpu(self) -> bool:
        """Whether its networks ran on a GPU."""
        return not self.device.startswith("cpu") and bool(self.device)

    @property
    def met(self) -> Met | None:
        """Whether the value is what it must be, judged by its confidence limit; None without a
        bound.

        A figure of a sample is `not shown` where its interval contains the bound. One without an
        interval, as a time or a count, is taken as it is.
        """
        if self.must is None:
            return None
        sign = -1 if self.ceiling else 1
        least, most = sorted(sign * limit for limit in self.ci95 or (self.value, self.value))
        if least >= sign * self.must:
            return "met"
        return "not shown" if most >= sign * self.must else "not met"

    @property
    def p(self) -> float | None:
        """P value of no difference, from the interval (Altman and Bland, BMJ 2011; 343:d2304); None
        where the row is no difference (`reference` 0) with an interval."""
        if self.reference != 0 or self.ci95 is None:
            return None
        error = (self.ci95[1] - self.ci95[0]) / (2 * norm.isf(0.025))
        if error == 0:
            return float(self.value == 0)
        return float(2 * norm.sf(abs(self.value) / error))


class Part(Frozen):
    """One thing that is measured by one command, as parts.yaml describes it."""

    measure: str
    """`module:function` below `benchmarks`; the function returns rows."""
    about: str
    """What is measured and against what, a sentence or two; printed in RESULTS.md."""
    takes: str
    """About how long, on two processor cores."""
    compare: str = "compare with"
    """Heading of the column of `Row.reference`."""
    after: str = ""
    """Stage that has run of each task that is measured, as `OUTPUTS` names it: the function takes
    the paths of a task, and its rows are stored before the next one. Where empty, it takes
    nothing."""
    tasks: tuple[str, ...] = ()
    """Tasks of `after`; all shipped ones where empty."""
    run_by_default: bool = True
    """Whether it is measured where no part is named."""
    gpu: bool = False
    """Whether networks run on a GPU where there is one; not where time or memory is measured."""

    def load(self) -> Callable[..., list[Row]]:
        """The function, its module imported now."""
        module, _, function = self.measure.partition(":")
        found: Callable[..., list[Row]] = getattr(import_module(f"benchmarks.{module}"), function)
        return found


_FILE = Path(__file__).parents[1] / "parts.yaml"
PARTS = {
    name: Part.model_validate(part)
    for name, part in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items()
}
"""Every part by its name, in the order of the page; a module is imported only when requested."""
