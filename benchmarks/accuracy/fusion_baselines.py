"""Baselines of part `fusion`: joint models that have no notion of an absent modality.

All see embeddings and clinical features side by side, are trained on studies as they come, and
predict from the modalities of a subset. They differ in what fills a missing value: zeros, the mean
of the training studies, or a mark that gradient-boosted trees may split on.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from cxr_mm.core.types import Modality, subset_name, subsets
from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.data.split import Resample
from cxr_mm.models.calibration import subset_mask
from cxr_mm.training.fuse import AVAILABLE
from cxr_mm.training.fusion_fit import Index, Studies

Floats = NDArray[np.float64]
Blocks = dict[Modality, Floats]
"""Per modality (N, D), NaN in the rows of studies that have none."""
Answer = Callable[[Blocks], Floats]
"""Blocks → probability (N,)."""
Learn = Callable[[Blocks, Floats, NDArray[np.object_]], Answer]
"""Blocks, labels (N,) of 1 and 0, groups (N,) → what answers."""
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse penalties tried for the logistic regressions."""
REDUCED = 32
"""Principal components of an embedding that the trees see."""
INNER_FOLDS = 3


def baseline(studies: Studies, part: Resample, name: str) -> pd.DataFrame:
    """Predictions of one baseline on the test part, for each subset and for what each study has."""
    train = np.sort(np.concatenate([part.train, part.val]))
    transform = ClinicalTransform.fit(studies.task.clinical, studies.clinical.iloc[train])
    blocks = _blocks(studies, transform)
    labels = studies.labels.numpy().astype(np.float64)
    answers = []
    for f in range(labels.shape[1]):
        rows = train[np.isfinite(labels[train, f])]
        answers.append(LEARN[name](_rows(blocks, rows), labels[rows, f], studies.groups[rows]))
    return _answers_of(studies, blocks, answers, part.test)


def _blocks(studies: Studies, transform: ClinicalTransform) -> Blocks:
    blocks = {m: rows.numpy().astype(np.float64) for m, rows in studies.inputs(transform).items()}
    for modality, rows in blocks.items():
        rows[~studies.mask[:, subset_mask([modality])].squeeze(1).numpy()] = np.nan
    return blocks


def _answers_of(
    studies: Studies, blocks: Blocks, answers: list[Answer], test: Index
) -> pd.DataFrame:
    modalities = studies.task.modalities
    requested = {subset_name(s): s for s in subsets(modalities)}
    tables: list[pd.DataFrame] = []
    for name, subset in {**requested, AVAILABLE: modalities}.items():
        rows = test if name == AVAILABLE else studies.having(test, subset_mask(subset))
        rows = rows[studies.mask[rows].any(1).numpy()]
        shown = {m: v if m in subset else np.full_like(v, np.nan) for m, v in blocks.items()}
        table = studies.ids.iloc[rows].reset_index(drop=True).assign(subset=name)
        for f, finding in enumerate(studies.task.finding_names):
            table[f"label.{finding}"] = studies.labels[rows, f].numpy()
            table[f"probability.{finding}"] = answers[f](_rows(shown, rows))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _rows(blocks: Blocks, rows: Index) -> Blocks:
    return {m: values[rows] for m, values in blocks.items()}


def zero_filling(blocks: Blocks, labels: Floats, groups: NDArray[np.object_]) -> Answer:
    """Logistic regression; an absent modality is a vector of zeros, in training and after."""
    return _regression(SimpleImputer(strategy="constant", fill_value=0.0), blocks, labels, groups)


def mean_imputation(blocks: Blocks, labels: Floats, groups: NDArray[np.object_]) -> Answer:
    """Logistic regression; an absent modality is the mean of the training studies."""
    return _regression(SimpleImputer(strategy="mean"), blocks, labels, groups)


def _regression(
    imputer: SimpleImputer, blocks: Blocks, labels: Floats, groups: NDArray[np.object_]
) -> Answer:
    """Standard scores side by side, each modality at unit length so that none drowns another."""
    shares = np.concatenate([np.full(v.shape[1], v.shape[1] ** -0.5) for v in blocks.values()])
    folds = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=0)
    search = GridSearchCV(
        LogisticRegression(max_iter=500),
        {"C": PENALTIES},
        scoring="neg_log_loss",
        cv=list(folds.split(labels, labels, groups)),
    )
    # A ridge penalty sees the span of the training studies alone: no component of it is lost.
    scores = make_pipeline(imputer, StandardScaler(), FunctionTransformer(shares.__mul__), PCA())
    search.fit(scores.fit_transform(_joined(blocks)), labels)
    return lambda features: np.asarray(
        search.predict_proba(scores.transform(_joined(features)))[:, 1]
    )


def _joined(blocks: Blocks) -> Floats:
    return np.concatenate(list(blocks.values()), axis=1)


def gradient_boosting(blocks: Blocks, labels: Floats, groups: NDArray[np.object_]) -> Answer:  # noqa: ARG001
    """Gradient-boosted trees, which take a missing value as it is (Ke et al. 2017, LightGBM)."""
    parts = {m: _components(v) for m, v in blocks.items() if v.shape[1] > REDUCED}

    def joined(features: Blocks) -> Floats:
        return _joined({m: parts[m](v) if m in parts else v for m, v in features.items()})

    trees = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=150, max_leaf_nodes=8, l2_regularization=1.0, random_state=0
    )
    trees.fit(joined(blocks), labels)
    return lambda features: np.asarray(trees.predict_proba(joined(features))[:, 1])


def _components(values: Floats) -> Callable[[Floats], Floats]:
    """Principal components of the rows that are there; NaN where a row is not."""
    present = ~np.isnan(values).any(axis=1)
    analysis = PCA(min(REDUCED, int(present.sum()) - 1), random_state=0).fit(values[present])

    def reduced(rows: Floats) -> Floats:
        result = np.full((len(rows), analysis.n_components_), np.nan)
        present = ~np.isnan(rows).any(axis=1)
        if present.any():
            result[present] = analysis.transform(rows[present])
        return result

    return reduced


LEARN: dict[str, Learn] = {
    "zero filling": zero_filling,
    "mean imputation": mean_imputation,
    "gradient boosting": gradient_boosting,
}
