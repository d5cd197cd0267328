"""Shortcut audit: traits the image embedding encodes, and confounders that predict the findings.

A trait that a linear probe finds in the embedding may be used in place of disease (Gichoya et al.,
Lancet Digital Health 2022; 4:e406); a finding that view or site alone predicts is confounded with
them (Zech et al., PLoS Med 2018; 15:e1002683). The AUC within strata compares studies of one
stratum only (Janes and Pepe, Biometrika 2009; 96:371).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE, plural
from cxr_mm.data.manifest import ABSENT, Manifest, finding_column
from cxr_mm.evaluation.delong import auc_estimate
from cxr_mm.evaluation.metrics import Floats, Scored, auc
from cxr_mm.evaluation.resampling import Estimate, Weights, multiplicities, rounded
from cxr_mm.evaluation.subsets import scored_of, subset_rows
from cxr_mm.evaluation.traits import OF_MANIFEST, SMALLEST_GROUP, Traits
from cxr_mm.imaging.quality import QUALITY_NAMES

SPREAD = 1.0
"""Standard deviation of a logit before any data is seen, which sets the penalty: the same for
eight statistics of an image as for a thousand numbers of its embedding."""
STEPS = 300
FLAT = 1e-6


def linear_probe(
    features: NDArray[np.floating],
    answers: NDArray[np.bool_],
    groups: NDArray[np.object_],
    folds: int,
    seed: int,
) -> Floats | None:
    """Score (N,) of each study by a model that has not seen its group.

    Args:
        features: (N, D), standardised within each fold's training rows.
        answers: (N,) binary target of the probe.
        groups: (N,) what stays together.
        folds: number of folds.
        seed: for the shuffle.

    Returns:
        Logits, or None where either answer has fewer groups than there are folds.
    """
    kinds = [len(set(groups[answers == side])) for side in (True, False)]
    if min(kinds) < folds:
        return None
    scores = np.zeros(len(answers))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(features, answers, groups):
        scores[test] = _fit_and_score(features[train], answers[train], features[test])
    return scores


def _fit_and_score(
    features: NDArray[np.floating], answers: NDArray[np.bool_], unseen: NDArray[np.floating]
) -> Floats:
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > FLAT, scale, 1.0)
    x = (features - centre) / scale
    size = float((x**2).sum(axis=1).mean())
    penalty = SPREAD**2 / max(size, FLAT)
    model = LogisticRegression(C=penalty, max_iter=STEPS).fit(x, answers)
    scores: Floats = model.decision_function((unseen - centre) / scale).astype(np.float64)
    return scores


PROBE_FOLDS = 5
"""Folds by patient of the regressions."""
QUALITY, TEXT = "image quality", "burnt-in text"
METHOD = "logistic regression across folds of patients; intervals by bootstrap over patients"


@dataclass(frozen=True)
class Audited:
    """All studies of a task, rows as in the manifest.

    Args:
        manifest: the studies.
        groups: (N,) what `split` labelled together.
        embedding: (N, D) of the image; None where the task has none.
        quality: (N, Q) statistics of the image, NaN without one; None where the task has none.
        traits: of these studies.
        text: (N,) whether a word is burnt into the image; None where the task has none.
    """

    manifest: Manifest
    groups: NDArray[np.object_]
    embedding: NDArray[np.float32] | None
    quality: Floats | None
    traits: Traits
    text: NDArray[np.bool_] | None = None

    @property
    def ids(self) -> list[str]:
        return self.manifest.frame["study_id"].tolist()

    @property
    def with_image(self) -> NDArray[np.bool_]:
        """(N,) whether the study has an image."""
        return (self.manifest.frame["pixel_row"] != ABSENT).to_numpy()


def audit_shortcuts(
    task: Task, table: pd.DataFrame, studies: Audited, params: EvaluateParams
) -> dict[str, Any]:
    """Everything that shortcuts.json holds."""
    rows = subset_rows(table, AVAILABLE)
    return {
        "task": task.name,
        "synthetic": task.synthetic,
        "method": METHOD,
        "folds": PROBE_FOLDS,
        "absent": studies.traits.absent,
        "embedding": audit_embedding(studies, params),
        "alone": {
            name: predicted_alone(name, rows, studies, params) for name in task.finding_names
        },
    }


def audit_embedding(studies: Audited, params: EvaluateParams) -> dict[str, Any]:
    """AUC of a linear probe on the image embedding for each level of each trait."""
    if studies.embedding is None:
        return {"reason": "the task has no images", "traits": {}}
    traits: dict[str, Any] = {}
    for name in studies.traits.titles:
        if name in studies.traits.frame:
            levels = _level_aucs(studies.embedding, name, studies, params)
            traits[name] = {"title": studies.traits.titles[name], "levels": levels}
    return {
        "dim": int(studies.embedding.shape[1]),
        "studies": int(studies.with_image.sum()),
        "traits": traits,
    }


def _level_aucs(
    embedding: NDArray[np.float32], name: str, studies: Audited, params: EvaluateParams
) -> dict[str, Any]:
    """AUC of each level against the rest; of two levels that of the first, since both are equal."""
    column = studies.traits.frame[name]
    known = column.notna().to_numpy() & studies.with_image
    values = column.astype(object).to_numpy(object)[known]
    levels = studies.traits.levels(name)
    return {
        level: _level_auc(embedding[known], values == level, studies.groups[known], params)
        for level in (levels[:1] if len(levels) == 2 else levels)
    }


def _level_auc(
    features: NDArray[np.float32],
    answers: NDArray[np.bool_],
    groups: NDArray[np.object_],
    params: EvaluateParams,
) -> dict[str, Any]:
    sizes = {"n": int(answers.sum()), "of": len(answers), "patients": len(set(groups[answers]))}
    if min(answers.sum(), (~answers).sum()) < SMALLEST_GROUP:
        return {
            **sizes,
            **_none(f"too few: {plural(min(answers.sum(), (~answers).sum()), 'study')}"),
        }
    scores = linear_probe(features, answers, groups, PROBE_FOLDS, params.seed)
    if scores is None:
        return {**sizes, **_none("too few patients for the folds")}
    weights = multiplicities(groups, params.bootstrap, params.seed)
    return {**sizes, "auc": _auc(answers, scores, weights, groups).to_json()}


def predicted_alone(
    finding: str, rows: pd.DataFrame, studies: Audited, params: EvaluateParams
) -> dict[str, Any]:
    """AUC of view, site, publisher, burnt-in text and image quality alone, beside the model's on
    the very same studies, and the model's within strata of each.

    The regression is fitted across folds of all labelled studies; its AUC, like the model's, is
    that of the held-out ones.
    """
    labels = studies.manifest.frame[finding_column(finding)].to_numpy(np.float64)
    inputs = _inputs(studies)
    if len(inputs) > 1:
        inputs[" + ".join(inputs)] = np.concatenate(list(inputs.values()), axis=1)
    result = {}
    for name, features in inputs.items():
        labelled = np.isfinite(labels) & np.isfinite(features).all(axis=1)
        answers = labels[labelled] > 0
        scores = linear_probe(
            features[labelled], answers, studies.groups[labelled], PROBE_FOLDS, params.seed
        )
        ids = np.asarray(studies.ids, dtype=object)[labelled]
        if scores is None:
            result[name] = _none("too few patients for the folds")
        else:
            result[name] = _beside_model(finding, rows, pd.Series(scores, index=ids), params)
        strata = _strata(name, studies, labelled, scores)
        if strata is not None:
            result[name]["within"] = within_strata(
                finding, rows, pd.Series(strata, index=ids), params
            )
        if name == QUALITY:
            seen = labelled & np.isin(studies.ids, rows["study_id"])
            result[name]["strongest"] = _strongest(features[seen], labels[seen] > 0)
    return result


def _strata(
    name: str, studies: Audited, rows: NDArray[np.bool_], scores: Floats | None
) -> NDArray[np.object_] | None:
    """Stratum of each study: its level, or the fifth that its score is in; None without a score."""
    if name == TEXT:
        assert studies.text is not None
        return np.where(studies.text[rows], "text", "no text").astype(object)
    if name in OF_MANIFEST:
        return studies.manifest.frame[name].to_numpy(object)[rows]
    return None if scores is None else fifths(scores)


def fifths(scores: Floats) -> NDArray[np.object_]:
    """Names (N,) of fifths by score, which take most of a confounder's bias away (Cochran,
    Biometrics 1968; 24:295)."""
    at = np.digitize(scores, np.quantile(scores, (0.2, 0.4, 0.6, 0.8)))
    return np.asarray([f"{fifth + 1} of 5" for fifth in at], dtype=object)


def _strongest(features: Floats, answers: NDArray[np.bool_]) -> dict[str, Any]:
    """The single statistic of highest AUC, without any fit, in either direction."""
    sides = []
    for column in features.T:
        value = float(auc(Scored(answers.astype(np.float64), column, column > 0))[0])
        sides.append(max(value, 1 - value))
    at = int(np.argmax(sides))
    return {"name": QUALITY_NAMES[at], "auc": rounded(sides[at])}


def _inputs(studies: Audited) -> dict[str, Floats]:
    """Features (N, K) by name; a row that lacks one is NaN."""
    found: dict[str, Floats] = {}
    for name in OF_MANIFEST:
        column = studies.manifest.frame[name]
        if column.nunique() > 1:
            dummies = pd.get_dummies(column, dtype=np.float64)
            found[name] = dummies.where(column.notna(), np.nan).to_numpy()
    if studies.text is not None and len(set(studies.text[studies.with_image])) > 1:
        found[TEXT] = np.where(studies.with_image, studies.text, np.nan)[:, None]
    if studies.quality is not None:
        found[QUALITY] = studies.quality
    return found


def _beside_model(
    finding: str, rows: pd.DataFrame, scores: "pd.Series[float]", params: EvaluateParams
) -> dict[str, Any]:
    same = rows[rows["study_id"].isin(scores.index)].reset_index(drop=True)
    model, labelled = scored_of(same, finding)
    same = same[labelled]
    weights = multiplicities(same["group"], params.bootstrap, params.seed)
    by_scores = np.asarray(scores.loc[same["study_id"]], dtype=np.float64)
    alone = _auc(model.labels > 0, by_scores, weights, same["group"])
    by_model = _auc(model.labels > 0, model.probabilities, weights, same["group"])
    return {
        "n": len(same),
        "patients": int(same["patient_id"].nunique()),
        "auc": alone.to_json(),
        "model_auc": by_model.to_json(),
        "model_minus_this": (by_model - alone).to_json(),
    }


def within_strata(
    finding: str, rows: pd.DataFrame, strata: "pd.Series[Any]", params: EvaluateParams
) -> dict[str, Any]:
    """The model's AUC over pairs of studies of one stratum.

    Args:
        finding: whose AUC.
        rows: held-out predictions, a row a study.
        strata: stratum by `study_id`; other studies are left out.
        params: resamples and seed.

    Returns:
        `adjusted`, the chance that a positive scores above a negative of the same stratum;
        `pooled`, that of any positive and negative of these studies; and their difference.
    """
    known = rows[rows["study_id"].isin(strata.index)].reset_index(drop=True)
    scored, labelled = scored_of(known, finding)
    known = known[labelled]
    stratum = strata.loc[known["study_id"]].to_numpy(object)
    weights = multiplicities(known["group"], params.bootstrap, params.seed)
    parts, sizes = [], {}
    for level in sorted(set(stratum)):
        here = stratum == level
        part = scored.where(here)
        sizes[level] = {"n": len(part), "positives": part.n_positive}
        parts.append((part, weights[:, here]))
    adjusted = _over_pairs(parts)
    pooled = _auc(scored.labels > 0, scored.probabilities, weights, known["group"])
    return {
        "n": len(scored),
        "strata": sizes,
        "pooled": pooled.to_json(),
        "adjusted": adjusted.to_json(),
        "pooled_minus_adjusted": (pooled - adjusted).to_json(),
    }


def _over_pairs(parts: list[tuple[Scored, Weights]]) -> Estimate:
    """Mean AUC of strata, each counted by its pairs of a positive and a negative."""
    once = [np.ones((1, len(part)), dtype=np.uint16) for part, _ in parts]
    values = [_pairs_won(part, one) for (part, _), one in zip(parts, once, strict=True)]
    draws = [_pairs_won(part, weights) for part, weights in parts]
    with np.errstate(invalid="ignore"):
        value, resampled = (
            np.sum([won for won, _ in found], axis=0) / np.sum([n for _, n in found], axis=0)
            for found in (values, draws)
        )
    return Estimate(float(value[0]), resampled, "no stratum has both answers")


def _pairs_won(scored: Scored, weights: Weights) -> tuple[Floats, Floats]:
    """Pairs in which the positive scores above the negative, and all pairs, (B,) each."""
    counts = weights.astype(np.float64)
    pairs = (counts @ scored.labels) * (counts @ (1 - scored.labels))
    return np.where(pairs > 0, np.nan_to_num(auc(scored, weights)) * pairs, 0.0), pairs


def _auc(
    answers: NDArray[np.bool_], scores: Floats, weights: Weights, patients: ArrayLike
) -> Estimate:
    scored = Scored(answers.astype(np.float64), scores, scores > 0)
    return auc_estimate(scored, weights, patients, "one answer only")


def _none(reason: str) -> dict[str, Any]:
    return {"auc": {"value": None, "ci95": None, "reason": reason}}
