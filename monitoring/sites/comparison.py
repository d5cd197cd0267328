"""Comparison: in what the sites of one log differ from one another.

Of every quantity each site's mean is compared with that over all other sites. Means are those of
studies, their errors allow for several studies of a patient (a ratio estimator over clusters, as of
Cochran, Sampling Techniques, 1977), and P values, of Welch's test, are corrected over all
comparisons (Holm). What a site contributes is sums, which add up: over sites, and over the days of
a year.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t

from cxr_mm.core.types import FEWEST_PATIENTS
from cxr_mm.evaluation.resampling import holm
from monitoring.concept_drift import labelled
from monitoring.reference import Reference
from monitoring.sites.aggregate import Sums
from monitoring.table import WatchedColumn
from monitoring.verdict import METRIC_NAMES

FEWEST = 5
"""Studies expected with and without a property, below which its share is not compared."""
LEVEL = 0.05
"""Of the corrected P values below which a difference is shown."""


SiteSums = Mapping[str, Sums]
"""Quantity, by its title → sums."""


@dataclass(frozen=True)
class Difference:
    """One quantity of one site against all other sites.

    Args:
        site: its name.
        quantity: title.
        share: whether it is a share of studies, in [0, 1].
        here, elsewhere: means.
        low, high: 95 % interval of here less elsewhere, of this comparison alone.
        deviations: the difference in standard deviations between studies.
        studies: with a value here.
        p: corrected over all comparisons.
    """

    site: str
    quantity: str
    share: bool
    here: float
    elsewhere: float
    low: float
    high: float
    deviations: float
    studies: int
    p: float

    @property
    def is_shown(self) -> bool:
        """Whether it is beyond chance, over all comparisons."""
        return self.p < LEVEL


def sums_of(table: pd.DataFrame, reference: Reference) -> dict[str, Sums]:
    """Sums of every quantity of a table of the reference's columns."""
    patients = pd.factorize(table["patient"])[0]
    return {
        title: _sums(values, patients, share)
        for title, values, share in _quantities(table, reference)
        if np.isfinite(values).any()
    }


def compare(sites: Mapping[str, SiteSums]) -> list[Difference]:
    """Compare each site with all others; what differs most surely comes first."""
    found = [one for site in sites for one in _of_site(site, sites)]
    corrected = holm([one.p for one in found])
    rows = [replace(one, p=p) for one, p in zip(found, corrected, strict=True)]
    return sorted(rows, key=lambda row: (row.p, -abs(row.deviations)))


def add_up(parts: Iterable[SiteSums]) -> dict[str, Sums]:
    """The sums of several tables as of one."""
    whole: dict[str, Sums] = {}
    for part in parts:
        for title, sums in part.items():
            whole[title] = whole[title].plus(sums) if title in whole else sums
    return whole


def _of_site(site: str, sites: Mapping[str, SiteSums]) -> Iterable[Difference]:
    """Differences of one site, with P values of each alone."""
    others = add_up(sums for name, sums in sites.items() if name != site)
    for title, here in sites[site].items():
        elsewhere = others.get(title)
        if elsewhere is None or not _are_enough(here, elsewhere):
            continue
        change, error = here.mean - elsewhere.mean, np.hypot(here.error, elsewhere.error)
        spread = np.sqrt((here.variance + elsewhere.variance) / 2)
        if not spread:
            continue
        null = t(_degrees(here, elsewhere))
        reach = null.isf(0.025) * error
        yield Difference(
            site=site,
            quantity=title,
            share=here.share,
            here=here.mean,
            elsewhere=elsewhere.mean,
            low=float(change - reach),
            high=float(change + reach),
            deviations=float(change / spread),
            studies=int(here.studies),
            p=float(2 * null.sf(abs(change) / error)) if error else 0.0,
        )


def _degrees(here: Sums, elsewhere: Sums) -> float:
    """Degrees of freedom of the difference of two means (Welch 1947), over patients."""
    squares = [s.error**2 for s in (here, elsewhere)]
    each = sum(e**2 / (s.patients - 1) for e, s in zip(squares, (here, elsewhere), strict=True))
    return float(sum(squares) ** 2 / each) if each else np.inf


def _are_enough(here: Sums, elsewhere: Sums) -> bool:
    """Whether both have enough patients, and a share is large enough for its normal error."""
    if min(here.patients, elsewhere.patients) < FEWEST_PATIENTS:
        return False
    whole, fewer = here.plus(elsewhere), min(here.studies, elsewhere.studies)
    return not here.share or min(whole.mean, 1 - whole.mean) * fewer >= FEWEST


def _sums(values: NDArray[np.float64], patients: NDArray[np.int64], share: bool) -> Sums:
    known = np.isfinite(values)
    values, patients = values[known], patients[known]
    totals = np.bincount(patients, values)
    counts = np.bincount(patients)
    return Sums(
        share,
        float(len(values)),
        float(values.sum()),
        float(values @ values),
        float((counts > 0).sum()),
        float(totals @ totals),
        float(totals @ counts),
        float(counts @ counts),
    )


Quantity = tuple[str, NDArray[np.float64], bool]
"""Title, values (N,) with NaN where there is none, whether it is a share."""


def _quantities(table: pd.DataFrame, reference: Reference) -> Iterable[Quantity]:
    for column in reference.columns:
        yield from _of_column(table[column.name], column)
    yield from _of_labels(table, reference.task.finding_names)


def _of_column(values: pd.Series, column: WatchedColumn) -> Iterable[Quantity]:
    if column.watch_missing:
        yield f"{column.title}, missing share", _numbers(values.isna()), True
    if column.kind == "number":
        yield column.title, _numbers(values), False
        return
    for level in sorted(values.dropna().unique()):
        if level == "no":
            continue  # the share of yes says it
        title = column.title if level == "yes" else f"{column.title}: {level}"
        yield title, _numbers((values == level).where(values.notna())), True


def _of_labels(table: pd.DataFrame, findings: Sequence[str]) -> Iterable[Quantity]:
    """Shares of positive labels, and the squared error of the probabilities."""
    known = labelled(table, findings)
    if known.empty:
        return
    for name in findings:
        label = _numbers(table[f"label.{name}"])
        error = (_numbers(table[f"probability.{name}"]) - label) ** 2
        yield f"{name}: positive label", label, True
        yield f"{name}: {METRIC_NAMES['brier']}", error, False


def _numbers(values: pd.Series) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)
