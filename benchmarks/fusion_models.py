"""What part `fusion` compares: fused models, specialists, and late averaging of single modalities.

Each gives a table with a row per study and subset: `study_id, patient_id, group, subset`, and for
each finding `label.NAME` and `probability.NAME`.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from cxr_mm.contracts.modality import Modality, subset_name, subsets
from cxr_mm.contracts.task import Task
from cxr_mm.data.split import Resample
from cxr_mm.models.calibration import subset_mask
from cxr_mm.models.fusion import FusionKind
from cxr_mm.params import FuseParams
from cxr_mm.training.fuse import fit_fusion
from cxr_mm.training.heldout import AVAILABLE, heldout
from cxr_mm.training.studies import Studies

STEPS = 150
"""Steps of gradient descent for `concat` and `gated`. Of 60 to 1000 tried on out-of-fold studies of
`synthetic` and `icu` 125 to 200 were best; beyond that they learn the training studies by heart."""


def fused(studies: Studies, part: Resample, params: FuseParams, kind: FusionKind) -> pd.DataFrame:
    """One model of the kind, trained once, asked with every subset."""
    chosen = _of_kind(params, kind, part)
    fitted = fit_fusion(studies, part.train, part.val, chosen, part.fold)
    return heldout(studies, fitted, part.test, chosen.operating_point)


def _of_kind(params: FuseParams, kind: FusionKind, part: Resample) -> FuseParams:
    changes: dict[str, object] = {"fusion": kind}
    if kind != "late":
        batches = -(-(len(part.train) + len(part.val)) // params.batch_size)
        changes["epochs"] = -(-STEPS // batches)
    return params.model_copy(update=changes)


def specialists(
    studies: Studies, part: Resample, params: FuseParams, kind: FusionKind
) -> pd.DataFrame:
    """For each subset a model that never sees anything else, and is never left without any of it.

    It is trained on the studies that have the whole subset.
    """
    chosen = _of_kind(params, kind, part).model_copy(update={"modality_dropout": 0.0})
    tables = []
    for subset in subsets(studies.task.modalities):
        alone, shown = restricted(studies, subset), subset_mask(subset)
        train, val = (studies.having(rows, shown) for rows in (part.train, part.val))
        fitted = fit_fusion(alone, train, val, chosen, part.fold)
        table = heldout(alone, fitted, part.test, chosen.operating_point)
        tables.append(table[table["subset"] == subset_name(subset)])
    return pd.concat(tables, ignore_index=True)


def restricted(studies: Studies, subset: tuple[Modality, ...]) -> Studies:
    """The same studies as if no modality outside the subset had ever been recorded."""
    task = studies.task.model_copy(
        update={
            "has_image": "image" in subset,
            "clinical": studies.task.clinical if "tabular" in subset else (),
            "note": studies.task.note if "note" in subset else None,
        }
    )
    return replace(
        studies,
        task=task,
        embeddings={m: rows for m, rows in studies.embeddings.items() if m in subset},
        mask=studies.mask & subset_mask(subset),
    )


def averaged(table: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Mean over the modalities shown of the calibrated probabilities that single ones give.

    Args:
        table: of `fused` with kind `late`, whose heads are trained alone; each study once.
        task: names the findings and modalities.
    """
    columns = [f"probability.{name}" for name in task.finding_names]
    result = table.reset_index(drop=True)
    chances = []
    for modality in task.modalities:
        alone = table[table["subset"] == modality].set_index("study_id")[columns]
        asked = [s == AVAILABLE or modality in s.split("+") for s in result["subset"]]
        own = alone.reindex(result["study_id"]).to_numpy(np.float64)
        chances.append(np.where(np.array(asked)[:, None], own, np.nan))
    return result.assign(**dict(zip(columns, np.nanmean(chances, axis=0).T, strict=True)))
