"""Parts: what can be measured, and the rows that it gives."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import yaml

from cxr_mm.core.types import Frozen

BACKBONES = {"tf_efficientnet_lite0": "packaged", "small_cnn": "none", "resnet18": "none"}
"""Networks whose speed is measured → their weights."""


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
    def met(self) -> bool | None:
        """Whether the value is what it must be; None without a bound."""
        if self.must is None:
            return None
        return self.value <= self.must if self.ceiling else self.value >= self.must

    @property
    def is_significant(self) -> bool:
        """Whether it is a difference (`reference` 0) whose interval excludes zero."""
        return (
            self.reference == 0 and self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]
        )


class Part(Frozen):
    """One thing that is measured by one command, as parts.yaml describes it."""

    measure: str
    """`module:function` below `benchmarks`; the function takes nothing and returns rows."""
    about: str
    """What is measured and against what, a sentence or two; printed in RESULTS.md."""
    takes: str
    """About how long, on two processor cores."""
    compare: str = "compare with"
    """Heading of the column of `Row.reference`."""
    run_by_default: bool = True
    """Whether it is measured where no part is named."""

    def load(self) -> Callable[[], list[Row]]:
        """The function, its module imported now."""
        module, _, function = self.measure.partition(":")
        found: Callable[[], list[Row]] = getattr(import_module(f"benchmarks.{module}"), function)
        return found


_FILE = Path(__file__).parents[1] / "parts.yaml"
PARTS = {
    name: Part.model_validate(part)
    for name, part in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items()
}
"""Every part by its name, in the order of the page; a module is imported only when requested."""
