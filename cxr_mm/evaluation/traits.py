"""Traits: age band, sex, view, site and the like of each study, by which subgroups are formed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.task import ClinicalFeature, Task
from cxr_mm.core.types import plural
from cxr_mm.data.manifest import Manifest, clinical_column

AGE, VIEW, SITE, PUBLISHER = "age", "view", "site", "publisher"
OF_MANIFEST = {VIEW: "View position", SITE: "Site", PUBLISHER: "Publishing web site"}
YEARS = ("a", "y", "years")
"""Units in which an age fits the bands; the first is UCUM's."""
AGE_BANDS = (18, 40, 60, 80)
"""Ages in years at which a band begins; the first band is all below the first of them."""
SMALLEST_GROUP, SMALLEST_CLASS = 20, 5
"""Studies below which a subgroup has no figures; patients with a finding below which it has no
FNR, without below which it has no FPR (AUC needs both)."""
Levels: TypeAlias = "pd.Series[Any]"


@dataclass(frozen=True)
class Traits:
    """Characteristics of each study besides its findings.

    Args:
        frame: one row a study, by `study_id`; a categorical column per characteristic, its levels
            in the order of reports, missing where not known.
        titles: characteristic → as a clinician would write it.
        absent: requested characteristic → why it is not available.
    """

    frame: pd.DataFrame
    titles: dict[str, str]
    absent: dict[str, str]

    def levels(self, name: str) -> list[str]:
        """Levels of a characteristic that some study has, in order."""
        return [str(level) for level in self.frame[name].cat.categories]

    def of(self, study_ids: Iterable[str]) -> pd.DataFrame:
        """Rows of these studies, in their order."""
        return self.frame.loc[list(study_ids)]


def read_traits(manifest: Manifest, params: EvaluateParams, among: Iterable[str]) -> Traits:
    """Traits of the studies `among` which groups are to be formed.

    Sites with fewer than `SMALLEST_GROUP` of these studies count as one, since collections
    from publications name more sites than can be compared.
    """
    frame = manifest.frame.set_index("study_id").loc[list(among)]
    columns: dict[str, Levels] = {}
    titles, absent = {}, {}
    features = {feature.name: feature for feature in manifest.task.clinical}
    for name in params.characteristics:
        titles[name] = _title(name, features)
        column, reason = _column(manifest.task, frame, name)
        if column is None:
            absent[name] = reason
            continue
        column = column.cat.remove_unused_categories()
        if len(column.cat.categories) > 1:
            columns[name] = column
        else:
            absent[name] = _uniform(column)
    return Traits(pd.DataFrame(columns, index=frame.index), titles, absent)


def band_names() -> list[str]:
    """`0-17`, `18-39` … `80+`, as the bands begin at 18, 40 … 80 years."""
    edges = [0, *AGE_BANDS]
    return [*(f"{low}-{high - 1}" for low, high in pairwise(edges)), f"{AGE_BANDS[-1]}+"]


def _uniform(column: Levels) -> str:
    """Why a characteristic with fewer than two levels forms no groups."""
    levels = column.cat.categories
    return f"{levels[0]} in all that are known" if len(levels) else "not known of any study"


def _title(name: str, features: dict[str, ClinicalFeature]) -> str:
    if name in features:
        return features[name].title
    return OF_MANIFEST.get(name, name.replace("_", " ").capitalize())


def _column(task: Task, frame: pd.DataFrame, name: str) -> "tuple[Levels | None, str]":
    """A categorical column, or why there is none."""
    feature = next((f for f in task.clinical if f.name == name), None)
    if name in OF_MANIFEST and frame[name].notna().any():
        if name in (SITE, PUBLISHER):
            return _sites(frame[name])
        return _levels(frame[name], task.views), ""
    if feature is None:
        return None, "the source does not give it" if name in OF_MANIFEST else "not in the task"
    values = frame[clinical_column(name)]
    if feature.type == "category":
        return _levels(values, feature.categories), ""
    if name != AGE:
        return None, "a number; only age has bands"
    if feature.unit not in YEARS:
        return None, f"its unit is {feature.unit or 'not said'}, bands are in years"
    return age_bands(values), ""


def _levels(values: Levels, order: Sequence[str]) -> Levels:
    """Named levels first, in their order; any other after them by name."""
    others = sorted(set(values.dropna().astype(str)) - set(order))
    return _categorical(values, [*order, *others])


def age_bands(values: Levels) -> Levels:
    """Band of each age in years, categorical, by names of `band_names`; missing where not known."""
    names = band_names()
    known = values.notna().to_numpy()
    found = np.full(len(values), None, dtype=object)
    at = np.searchsorted(AGE_BANDS, values.to_numpy(np.float64)[known], side="right")
    found[known] = np.asarray(names, dtype=object)[at]
    return _categorical(pd.Series(found, index=values.index), names)


def _sites(values: Levels) -> "tuple[Levels | None, str]":
    counts = values.value_counts()
    order = sorted(counts.index, key=lambda site: (-counts[site], site))
    large = [site for site in order if counts[site] >= SMALLEST_GROUP]
    if not large:
        return None, f"none of {plural(len(order), 'site')} has {SMALLEST_GROUP} studies"
    others = f"other ({len(order) - len(large)} sites)"
    joined = values.where(values.isna() | values.isin(large), others)
    return _categorical(joined, [*large, others]), ""


def _categorical(values: Levels, order: Sequence[str]) -> Levels:
    levels = pd.CategoricalDtype([str(level) for level in order], ordered=True)
    return values.astype(object).astype(levels)
