"""Row: one measured figure, with what it takes to measure it again."""

from cxr_mm.contracts.frozen import Frozen


class Row(Frozen):
    """One measured figure.

    `value` is in the metric's own unit; `ci95` over patients where it is a metric of studies.
    """

    table: str
    """The part's name, or a name of its own for one of several tables of a part."""
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
    device: str = "cpu"
    command: str
    """`make benchmark PART=NAME`, which also says to which part the row belongs."""

    @property
    def met(self) -> bool | None:
        """Whether the value is what it must be; None where nothing is asked of it."""
        if self.must is None:
            return None
        return self.value <= self.must if self.ceiling else self.value >= self.must

    @property
    def telling(self) -> bool:
        """Whether it is a difference (`reference` 0) whose interval excludes zero."""
        return (
            self.reference == 0 and self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]
        )
