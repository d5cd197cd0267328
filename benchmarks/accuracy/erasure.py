"""Part `erasure`: what concept erasure gains within like image quality, and what it costs.

Each setting of `fuse.erase` is fitted anew in every fold and answers from the image alone.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.accuracy.input_gate import Run
from benchmarks.accuracy.robustness import SMALL, Sample, image_probabilities
from benchmarks.harness.outputs import after, fields_of
from benchmarks.harness.parts import Row
from cxr_mm.core.config import FuseParams
from cxr_mm.data.manifest import ABSENT, load_quality
from cxr_mm.data.split import load_split, resamples
from cxr_mm.evaluation.delong import auc_estimate
from cxr_mm.evaluation.metrics import Scored
from cxr_mm.evaluation.resampling import multiplicities
from cxr_mm.evaluation.shortcuts import PROBE_FOLDS, fifths, linear_probe, within_strata
from cxr_mm.imaging.quality import QUALITY_NAMES
from cxr_mm.training.fuse import fit_fusion
from cxr_mm.training.fusion_fit import load_studies

TASKS = ("effusion",)
SETTINGS: tuple[tuple[tuple[str, ...], float], ...] = (
    ((), 1.0),
    (("quality",), 0.25),
    (("quality",), 0.5),
    (("quality",), 0.75),
    (("quality",), 1.0),
    (("view",), 1.0),
    (("quality", "view"), 1.0),
)
"""What is erased, and how much of it."""
MUST_WITHIN, MUST_CLEAN = 0.86, 0.90
"""Least AUC within like quality, and of all studies."""
Scores = NDArray[np.float64]


def measure() -> list[Row]:
    """Rows of every task whose image quality tells much of the answer, once it is embedded."""
    return [
        row
        for paths in after("embed", "erasure", TASKS)
        for row in measure_task(Sample(Run(paths)))
    ]


def measure_task(sample: Sample) -> Iterator[Row]:
    """Rows of each setting on the same folds and the same studies."""
    small = sample.corrupted(*SMALL)
    alike = _alike(sample.run)
    for erase, strength in SETTINGS:
        fuse = sample.run.params.fuse.model_copy(
            update={"erase": erase, "erase_strength": strength}
        )
        name = f"{' and '.join(erase)}, strength {strength:g}" if erase else "nothing erased"
        print(f"erasure: {sample.run.paths.task}: {name}", flush=True)
        yield from _measured(sample, fuse, name, small, alike)


def _alike(run: Run) -> "pd.Series[str]":
    """Fifth by image quality, as in the shortcut audit, of each study with a label and an image."""
    table, frame = load_split(run.paths), run.manifest.frame
    quality = load_quality(run.paths)[list(QUALITY_NAMES)].to_numpy(np.float64)
    labels = run.manifest.labels()[:, 0]
    known = np.isfinite(labels) & np.isfinite(quality).all(axis=1)
    groups = table["group"].to_numpy(object)[known]
    seed = run.params.evaluate.seed
    scores = linear_probe(quality[known], labels[known] > 0, groups, PROBE_FOLDS, seed)
    assert scores is not None
    return pd.Series(fifths(scores), index=frame["study_id"].to_numpy()[known])


def _measured(
    sample: Sample,
    fuse: FuseParams,
    name: str,
    small: NDArray[np.float32],
    alike: "pd.Series[str]",
) -> Iterator[Row]:
    clean, stored_small = _probabilities(sample, fuse, small)
    run, groups = sample.run, load_split(sample.run.paths)["group"].to_numpy(object)
    finding, labels = run.manifest.task.finding_names[0], run.manifest.labels()[:, 0]
    tested = np.flatnonzero(np.isfinite(clean) & np.isfinite(labels))
    rows = pd.DataFrame(
        {
            "study_id": run.manifest.frame["study_id"].to_numpy()[tested],
            "group": groups[tested],
            f"label.{finding}": labels[tested],
            f"probability.{finding}": clean[tested],
            f"positive.{finding}": clean[tested] >= 0.5,
        }
    )
    within = within_strata(finding, rows, alike, run.params.evaluate)["adjusted"]
    facts = {"task": run.paths.task, "row": name, "seed": run.params.evaluate.seed}
    whole = _auc(run, labels[tested], clean[tested], groups[tested])
    yield Row(metric="auc", must=MUST_CLEAN, n=len(tested), **facts, **whole)
    yield Row(
        metric="auc within like quality",
        must=MUST_WITHIN,
        n=len(tested),
        value=within["value"],
        ci95=within["ci95"],
        **facts,
    )
    for metric, scores in (
        ("auc of the sample as stored", clean[sample.rows]),
        ("auc of the sample at 64 pixels", stored_small),
    ):
        found = _auc(run, labels[sample.rows], scores, groups[sample.rows])
        yield Row(metric=metric, n=len(sample.rows), **facts, **found)


def _auc(
    run: Run, labels: NDArray[np.float32], scores: Scores, groups: NDArray[np.object_]
) -> dict[str, object]:
    params = run.params.evaluate
    scored = Scored(labels.astype(np.float64), scores, scores >= 0.5)
    return fields_of(
        auc_estimate(scored, multiplicities(groups, params.bootstrap, params.seed), groups)
    )


def _probabilities(
    sample: Sample, fuse: FuseParams, small: NDArray[np.float32]
) -> tuple[Scores, Scores]:
    """Of all studies (N,) as stored, NaN where not held out; of the sample (n,) at 64 pixels."""
    run, table = sample.run, load_split(sample.run.paths)
    studies = load_studies(run.manifest, table, run.paths, fuse)
    clean, stored_small = np.full(len(run.manifest), np.nan), np.full(len(sample.rows), np.nan)
    for number, part in enumerate(resamples(table)):
        model = fit_fusion(studies, part.train, part.val, fuse, number)
        own = part.test[sample.pixel_rows[part.test] != ABSENT]
        clean[own] = image_probabilities(model, studies.embeddings["image"][own].numpy())
        chosen = np.isin(sample.rows, part.test)
        stored_small[chosen] = image_probabilities(model, small[chosen])
    return clean, stored_small
