"""Rival: what Evidently's DataDriftPreset says of the same windows at its defaults.

Its own verdict (half of the columns drifted), and the stricter reading that many make of it (any
column drifted). It is given every column that we watch, embeddings as their components. Importing
this module is slow, and switches Evidently's telemetry off.
"""

import os
import warnings
from dataclasses import dataclass

os.environ.setdefault("DO_NOT_TRACK", "1")

import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

from monitoring.reference import Reference


@dataclass(frozen=True)
class PresetSays:
    """What the preset says of a window.

    Args:
        half: at least half of the columns drifted, its own verdict.
        any: some column drifted.
    """

    half: bool
    any: bool


def preset_says(table: pd.DataFrame, reference: Reference) -> PresetSays:
    """Run the preset on a window; of one without a study it has nothing to say."""
    columns = [
        c
        for c in reference.columns
        if table[c.name].notna().any() and reference.table[c.name].notna().any()
    ]
    if not columns:
        return PresetSays(half=False, any=False)
    definition = DataDefinition(
        numerical_columns=[c.name for c in columns if c.kind == "number"],
        categorical_columns=[c.name for c in columns if c.kind == "category"],
    )
    names = [c.name for c in columns]
    current, before = (
        Dataset.from_pandas(t[names].reset_index(drop=True), data_definition=definition)
        for t in (table, reference.table)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Report([DataDriftPreset()]).run(current, before).dict()
    drifted = next(m for m in found["metrics"] if "DriftedColumnsCount" in m["metric_name"])
    value = drifted["value"]
    return PresetSays(half=value["share"] >= 0.5, any=value["count"] > 0)
