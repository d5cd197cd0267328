"""Reweighting: draw training studies so that the answer does not depend on a subgroup."""

import numpy as np
from numpy.typing import NDArray

from cxr_mm.core.errors import StageError
from cxr_mm.core.task import Task
from cxr_mm.data.manifest import Manifest, clinical_column

Index = NDArray[np.int64]


def groupings(task: Task) -> tuple[str, ...]:
    """What training studies can be reweighted by: view, site and features with categories."""
    return ("view", "site", *(f.name for f in task.clinical if f.type == "category"))


def read_strata(manifest: Manifest, name: str | None) -> NDArray[np.object_] | None:
    """Group (N,) of each study, None where not known; None where nothing is to be reweighted.

    Args:
        manifest: N studies.
        name: `view`, `site` or a clinical feature with categories.

    Raises:
        StageError: it is neither of these, or the same in all studies.
    """
    if name is None:
        return None
    if name not in groupings(manifest.task):
        raise StageError(
            f"{name} has no groups",
            field="fuse.reweight",
            remedy=f"Name one of {', '.join(groupings(manifest.task))}",
        )
    column = clinical_column(name) if name in manifest.task.clinical_names else name
    groups = manifest.frame[column]
    if groups.nunique() < 2:
        raise StageError(
            f"the studies do not differ in {name}", field="fuse.reweight", remedy="Set it to null"
        )
    known: NDArray[np.object_] = groups.astype(object).where(groups.notna(), None).to_numpy(object)
    return known


def independent_rows(
    rows: Index, strata: NDArray[np.object_], labels: NDArray[np.float32], seed: int
) -> Index:
    """Draw rows so that group and answer are independent, and each as frequent as before.

    Reweighing by uniform sampling (Kamiran and Calders, Knowl Inf Syst 2012; 33:1): of each group
    and answer, as many as independence would have. Rows of no known group stay as they are.

    Args:
        rows: (n,) rows of the training studies.
        strata: (N,) group of every study, None where not known.
        labels: (N, F) 1, 0 or NaN.
        seed: of what is drawn.

    Returns:
        About n rows in order, some several times, some not at all.
    """
    random = np.random.default_rng(seed)
    known = np.array([strata[row] is not None for row in rows], dtype=bool)
    among = rows[known]
    group = np.unique(strata[among].astype(str), return_inverse=True)[1]
    answer = np.unique(np.nan_to_num(labels[among], nan=2.0), axis=0, return_inverse=True)[1]
    answer = answer.ravel()
    drawn = [rows[~known]]
    for g, a in sorted({*zip(group.tolist(), answer.tolist(), strict=True)}):
        cell = among[(group == g) & (answer == a)]
        wanted = round((group == g).sum() * (answer == a).sum() / len(among))
        whole, left = divmod(wanted, len(cell))
        drawn += [np.tile(cell, whole), random.permutation(cell)[:left]]
    return np.sort(np.concatenate(drawn))
