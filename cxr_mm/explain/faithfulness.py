"""Faithfulness: how far an explanation can be believed, as figures with intervals.

Localisation against the ground truth that the synthetic source keeps; deletion against random
order wherever there are films. Intervals are percentiles of a bootstrap over patients.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cxr_mm.contracts.explanation import Target
from cxr_mm.data.sources.synthetic.phantom import CONSOLIDATION_BIT, EFFUSION_BIT
from cxr_mm.explain.cases import Studies
from cxr_mm.explain.film import content_box, mask_to_square
from cxr_mm.explain.grad_cam import grad_cam
from cxr_mm.explain.localisation import localise
from cxr_mm.models.bundle import Bundle

BITS = {"consolidation": CONSOLIDATION_BIT, "effusion": EFFUSION_BIT}
RESAMPLES = 1000


def localisation_figures(
    bundle: Bundle, studies: Studies, heldout: pd.DataFrame, count: int, seed: int
) -> dict[str, Any]:
    """Grad-CAM against the true masks, on held-out studies that have the finding.

    Args:
        bundle: the model.
        studies: where the images are.
        heldout: rows of one subset, one a study.
        count: studies per finding at most.
        seed: of the choice and of the bootstrap.

    Returns:
        Finding → n, and mean with interval of each figure of `Localisation`, and of `gain`
        (energy less what chance gives).
    """
    figures: dict[str, Any] = {}
    for finding in (f for f in bundle.task.finding_names if f in BITS):
        rows = _positives(heldout, studies, finding, count, seed)
        found = [
            row
            for study_id in tqdm(rows["study_id"], desc=f"localise {finding}", leave=False)
            if (row := _localised(bundle, studies, str(study_id), finding)) is not None
        ]
        if found:
            table = pd.DataFrame(found)
            table["gain"] = table["energy"] - table["chance_energy"]
            figures[finding] = {"n": len(table), **_means(table, seed)}
    return figures


def mean_with_interval(
    values: Sequence[float], patients: Sequence[str], seed: int
) -> dict[str, float]:
    """Mean and 95 % interval, resampling patients with all their studies."""
    codes, names = pd.factorize(np.asarray(patients, dtype=object))
    sums = np.bincount(codes, weights=np.asarray(values, dtype=np.float64))
    sizes = np.bincount(codes)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(names), size=(RESAMPLES, len(names)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": float(sums.sum() / sizes.sum()), "low": float(low), "high": float(high)}


def _means(table: pd.DataFrame, seed: int) -> dict[str, Any]:
    patients = table.pop("patient_id").tolist()
    return {
        str(name): mean_with_interval(column.tolist(), patients, seed)
        for name, column in table.items()
    }


def _positives(
    heldout: pd.DataFrame, studies: Studies, finding: str, count: int, seed: int
) -> pd.DataFrame:
    rows = heldout[heldout[f"label.{finding}"] == 1]
    shown = [s for s in rows["study_id"] if studies.has_image(s) and studies.mask_file(s)]
    rows = rows[rows["study_id"].isin(shown)]
    return rows.sample(min(count, len(rows)), random_state=seed)


def _localised(
    bundle: Bundle, studies: Studies, study_id: str, finding: str
) -> dict[str, Any] | None:
    """Figures over the film, without the black margin; None where the finding left no trace."""
    path = studies.mask_file(study_id)
    assert path is not None
    with Image.open(path, formats=["PNG"]) as image:
        bits: NDArray[np.uint8] = np.asarray(image, dtype=np.uint8)
    mask = mask_to_square(bits & BITS[finding] > 0, bundle.size)
    if not mask.any():
        return None
    study = studies.study(study_id)
    values = grad_cam(bundle, study, Target(finding)).values
    inside = content_box((bits.shape[0], bits.shape[1]), bundle.size)
    return {"patient_id": study.patient_id, **localise(values[inside], mask[inside]).as_dict()}
