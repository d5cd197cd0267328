"""Populations: the same figures for parts of the held-out studies that the task names."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from cxr_mm.data.manifest import Manifest, population_column

Measure = Callable[[pd.DataFrame, pd.DataFrame], dict[str, Any]]
"""(held-out predictions, those of further divisions) → figures of metrics.json."""


def measure_populations(
    manifest: Manifest, table: pd.DataFrame, further: pd.DataFrame, measure: Measure
) -> dict[str, Any]:
    """Figures of each population, by its name; empty where the task names none.

    Args:
        manifest: which studies belong to each population.
        table: held-out predictions.
        further: those of the other divisions.
        measure: computes the figures of some of the rows.

    Returns:
        Name → `title`, `n_studies` and, where there is a study, the figures.
    """
    found = {}
    for population in manifest.task.populations:
        inside = manifest.frame[population_column(population.name)].to_numpy(bool)
        ids = manifest.frame["study_id"][inside]
        rows, others = (each[each["study_id"].isin(ids)] for each in (table, further))
        figures = measure(rows, others) if len(rows) else {"n_studies": 0, "subsets": {}}
        found[population.name] = {"title": population.title, **figures}
    return found
