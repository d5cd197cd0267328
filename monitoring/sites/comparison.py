"""Comparison: in what the sites of one log differ from one another.

Of every quantity each site's mean is compared with that over all other sites. Means are those of
studies, and their errors allow for several studies of a patient (a ratio estimator over clusters,
as of Cochran, Sampling Techniques, 1977). Intervals are Welch's (Biometrika 1947; 34:28), of shares
Newcombe's (Statistics in Medicine 1998; 17:873).

P values say how often studies dealt out to the sites at random would differ as much, and are
corrected over all comparisons (Holm). That correction asks for tails far out, where a normal error
is wrong by orders of magnitude: of a rare property, of laboratory values with a few very high ones.
So a share has Fisher's exact test, and a number is compared by its rank among the reference's, with
variance and skewness of the mean of a random part of all studies (Pearson's type III, as of Mielke
and Berry, Permutation Methods, 2001). Several studies of a patient count as fewer, and numbers
beyond all of the reference's have one rank.

What a site contributes is sums, which add up: over sites, and over the days of a year.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammainc, gammaincc, ndtr
from scipy.stats import t

from cxr_mm.core.types import FEWEST_PATIENTS
from cxr_mm.evaluation.limits import effective_size, wilson
from cxr_mm.evaluation.resampling import Limits, holm
from monitoring.concept_drift import labelled
from monitoring.reference import Reference
from monitoring.sites.aggregate import Sums
from monitoring.statistics import exact_tails
from monitoring.table import WatchedColumn
from monitoring.verdict import METRIC_NAMES

FEWEST = 5
"""Studies expected with and without a property, below which its share is not compared."""
RANK = ", rank among the reference's"
"""What is added to the title of a number for the sums of its ranks."""
STRAIGHT = 1e-3
"""Skewness below which a distribution is taken for normal."""
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
        title: sums_over(values, patients, share)
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
        if title.endswith(RANK) or elsewhere is None or not _are_enough(here, elsewhere):
            continue
        spread = _spread(here, elsewhere)
        if not spread:
            continue
        low, high = _limits(here, elsewhere)
        ranked = title + RANK
        yield Difference(
            site=site,
            quantity=title,
            share=here.share,
            here=here.mean,
            elsewhere=elsewhere.mean,
            low=low,
            high=high,
            deviations=(here.mean - elsewhere.mean) / spread,
            studies=int(here.studies),
            p=_chance(sites[site].get(ranked, here), others.get(ranked, elsewhere)),
        )


def _spread(here: Sums, elsewhere: Sums) -> float:
    """Standard deviation within sites; over both, where neither has any."""
    within = (here.variance + elsewhere.variance) / 2
    return float(np.sqrt(within or here.plus(elsewhere).variance))


def _limits(here: Sums, elsewhere: Sums) -> Limits:
    """95 % interval of the difference of two means."""
    change = here.mean - elsewhere.mean
    if here.share:
        worth = _worth(here.plus(elsewhere))
        (low, high), (below, above) = (wilson(s.mean, s.studies * worth) for s in (here, elsewhere))
        down = np.hypot(here.mean - low, above - elsewhere.mean)
        up = np.hypot(high - here.mean, elsewhere.mean - below)
        return float(change - down), float(change + up)
    reach = t.isf(0.025, _degrees(here, elsewhere)) * np.hypot(here.error, elsewhere.error)
    return float(change - reach), float(change + reach)


def _worth(whole: Sums) -> float:
    """Share of the studies that as many independent ones would tell as surely."""
    size = effective_size(whole.studies, whole.patients, whole.variance, whole.error**2)
    return size / whole.studies


def _degrees(here: Sums, elsewhere: Sums) -> float:
    """Degrees of freedom of the difference of two means, over patients."""
    squares = [s.error**2 for s in (here, elsewhere)]
    each = sum(e**2 / (s.patients - 1) for e, s in zip(squares, (here, elsewhere), strict=True))
    return float(sum(squares) ** 2 / each) if each else np.inf


def _chance(here: Sums, elsewhere: Sums) -> float:
    """P value, the smaller tail doubled, of the studies of a site being a random part of all."""
    whole = here.plus(elsewhere)
    worth = _worth(whole)
    studies, drawn = whole.studies * worth, here.studies * worth
    if here.share:
        tails = _exact_tails(round(studies), round(drawn), whole.mean, here.mean)
    else:
        tails = _skewed_tails(studies, drawn, whole, here.mean)
    return float(min(1.0, 2 * min(tails)))


def _exact_tails(studies: int, drawn: int, share: float, here: float) -> tuple[float, float]:
    """Chance of at most, and of at least, the share of a random part (hypergeometric)."""
    every = round(studies * share)
    hits = min(max(round(drawn * here), drawn + every - studies, 0), drawn, every)
    below, above = exact_tails(studies, drawn, every, hits)
    return float(below), float(above)


def _skewed_tails(studies: float, drawn: float, whole: Sums, here: float) -> tuple[float, float]:
    """Chance of at most, and of at least, the mean of a random part, by its three moments."""
    left = studies - drawn
    error = np.sqrt(whole.variance * left / (drawn * (studies - 1)))
    if not error:
        return 1.0, 1.0
    z = (here - whole.mean) / error
    unequal = (left - drawn) / (studies - 2) * np.sqrt((studies - 1) / (drawn * left))
    skewness = whole.skewness * unequal
    if abs(skewness) < STRAIGHT:
        return float(ndtr(z)), float(ndtr(-z))
    root = 2 / abs(skewness)
    place = max(0.0, root**2 + root * z * np.sign(skewness))
    below, above = float(gammainc(root**2, place)), float(gammaincc(root**2, place))
    return (below, above) if skewness > 0 else (above, below)


def _are_enough(here: Sums, elsewhere: Sums) -> bool:
    """Whether both have enough patients, and a share can differ by enough studies to be worth a
    comparison."""
    if min(here.patients, elsewhere.patients) < FEWEST_PATIENTS:
        return False
    whole, fewer = here.plus(elsewhere), min(here.studies, elsewhere.studies)
    return not here.share or min(whole.mean, 1 - whole.mean) * fewer >= FEWEST


def sums_over(values: NDArray[np.float64], patients: NDArray[np.int64], share: bool) -> Sums:
    """Sums of one quantity.

    Args:
        values: (N,), NaN where there is none; at least one is known.
        patients: (N,) number of each study's patient.
        share: whether values are 0 and 1 alone.
    """
    known = np.isfinite(values)
    values, patients = values[known], patients[known]
    totals = np.bincount(patients, values)
    counts = np.bincount(patients)
    return Sums(
        share,
        float(len(values)),
        float(values.sum()),
        float(values @ values),
        float(values**2 @ values),
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
        known = reference.table[column.name].dropna()
        if column.kind == "number" and len(known):
            ranks = _ranks(_numbers(table[column.name]), np.sort(_numbers(known)))
            yield column.title + RANK, ranks, False
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


def _ranks(values: NDArray[np.float64], of_reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of the reference's values that lie below each value, half of those equal to it; NaN
    where there is no value."""
    known = np.sort(of_reference[np.isfinite(of_reference)])
    below, upto = (np.searchsorted(known, values, side) for side in ("left", "right"))
    ranks = (below + upto) / (2 * max(len(known), 1))
    return np.where(np.isfinite(values), ranks, np.nan)


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
