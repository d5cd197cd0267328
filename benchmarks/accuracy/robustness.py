"""Part `robustness`: what a prediction loses where the image was stored or exposed otherwise.

Each image is corrupted in every kind and at every level, and answered by fusion and input gate of a
fold that has not seen its patient.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.input_gate import Run
from benchmarks.harness.outputs import fields_of
from benchmarks.harness.parts import Row
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.types import subset_name
from cxr_mm.data.manifest import ABSENT
from cxr_mm.data.split import load_split, resamples
from cxr_mm.evaluation.delong import auc_estimate
from cxr_mm.evaluation.metrics import Scored, auc, expected_calibration_error
from cxr_mm.evaluation.resampling import multiplicities
from cxr_mm.imaging.corruptions import CORRUPTIONS, LEVELS, corrupt
from cxr_mm.models.calibration import link, subset_mask
from cxr_mm.training.embed import image_embeddings
from cxr_mm.training.fuse import fit_fusion
from cxr_mm.training.fusion_fit import FittedFusion, Index, load_studies

TABLE = "robustness: by corruption and level"
EACH, SEED = 60, 0
"""Most studies with the finding, and most without it; seed of their choice and of corruptions."""
LEVEL, MOST_LOST = 3, 0.08
"""Level by which no kind may cost more AUC than this."""
SMALL, MOST_LOST_SMALL, MOST_REJECTED = ("resolution", 5), 0.05, 0.05
"""Stored at 64 pixels: the AUC that it may cost, and the share that the gate may reject."""
Embeddings = NDArray[np.float32]


def measure(paths: TaskPaths) -> list[Row]:
    """Rows of a binary task with images."""
    return list(_measured(Sample(Run(paths))))


@dataclass(frozen=True)
class Answered:
    """Scores of the sampled studies from the image alone, and whether the gate rejects it."""

    scored: Scored
    rejected: NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """Studies of a task, and models that have not seen them."""

    run: Run

    @cached_property
    def rows(self) -> Index:
        """Held-out studies with an image, as many with the finding as without where there are."""
        parts = resamples(load_split(self.run.paths))
        tested = np.concatenate([part.test for part in parts])
        labels = self.run.manifest.labels()[tested, 0]
        known = (self.pixel_rows[tested] != ABSENT) & np.isfinite(labels)
        random = np.random.default_rng(SEED)
        chosen = [
            random.permutation(tested[known & (labels == answer)])[:EACH] for answer in (0, 1)
        ]
        return np.sort(np.concatenate(chosen))

    @property
    def pixel_rows(self) -> Index:
        rows: Index = self.run.manifest.frame["pixel_row"].to_numpy(np.int64)
        return rows

    @cached_property
    def models(self) -> list[FittedFusion]:
        """A fusion for each part, fitted without its test studies."""
        table = load_split(self.run.paths)
        studies = load_studies(self.run.manifest, table, self.run.paths, self.run.params.fuse)
        return [
            fit_fusion(studies, part.train, part.val, self.run.params.fuse, number)
            for number, part in enumerate(resamples(table))
        ]

    def corrupted(self, kind: str, level: int) -> Embeddings:
        """Embeddings (n, D) of the corrupted images."""
        random = np.random.default_rng([SEED, list(CORRUPTIONS).index(kind), level])
        pixels = (np.asarray(self.run.pixels[row]) for row in self.pixel_rows[self.rows])
        squares = np.stack([corrupt(square, kind, level, random) for square in pixels])
        return image_embeddings(self.run.encoder, squares)

    def answer(self, embeddings: Embeddings) -> Answered:
        """Answer each study (n, D) by the model and the gate that have not seen it."""
        finding = self.run.manifest.task.finding_names[0]
        probability = np.zeros(len(self.rows))
        positive, rejected = np.zeros((2, len(self.rows)), dtype=bool)
        parts = resamples(load_split(self.run.paths))
        for part, model, (gate, _) in zip(parts, self.models, self.run.gates, strict=True):
            own = np.isin(self.rows, part.test)
            probability[own] = image_probabilities(model, embeddings[own])
            point = model.points[subset_name(("image",))][finding]
            positive[own] = (
                probability[own] >= point[self.run.params.fuse.operating_point].threshold
            )
            rejected[own] = [d is not None and d.refused for d in gate.check(embeddings[own])]
        labels = self.run.manifest.labels()[self.rows, 0].astype(np.float64)
        return Answered(Scored(labels, probability, positive), rejected)


@torch.inference_mode()
def image_probabilities(model: FittedFusion, images: Embeddings) -> NDArray[np.float64]:
    """Calibrated probabilities (n,) from the image alone."""
    inputs = {m: torch.zeros(len(images), d) for m, d in model.fusion.spec.dims.items()}
    inputs["image"] = torch.from_numpy(images)
    mask = subset_mask(("image",)).expand(len(images), -1)
    return np.asarray(link(model.fusion(inputs, mask), "binary").numpy()[:, 0], np.float64)


def _measured(sample: Sample) -> Iterator[Row]:
    clean = sample.answer(sample.run.embeddings[sample.pixel_rows[sample.rows]])
    yield from _wide(sample, "as stored", clean)
    for kind in CORRUPTIONS:
        for level in LEVELS:
            found = sample.answer(sample.corrupted(kind, level))
            yield from _wide(sample, f"{kind}, level {level}", found)
            if level == LEVEL:
                yield _lost(sample, f"{kind}, level {level}", clean, found, MOST_LOST)
            if (kind, level) == SMALL:
                yield _lost(sample, "stored at 64 pixels", clean, found, MOST_LOST_SMALL)
                yield Row(
                    **_facts(sample, "stored at 64 pixels"),
                    metric="rejected",
                    value=float(found.rejected.mean()),
                    must=MOST_REJECTED,
                    ceiling=True,
                )


def _facts(sample: Sample, row: str) -> dict[str, object]:
    return {"task": sample.run.paths.task, "row": row, "n": len(sample.rows), "seed": SEED}


def _lost(sample: Sample, name: str, clean: Answered, found: Answered, most: float) -> Row:
    """AUC lost against the same studies as stored; intervals over patients."""
    groups = load_split(sample.run.paths)["group"].to_numpy(object)[sample.rows]
    params = sample.run.params.evaluate
    weights = multiplicities(groups, params.bootstrap, params.seed)
    before, after = (auc_estimate(each.scored, weights, groups) for each in (clean, found))
    facts = _facts(sample, name) | fields_of(before - after)
    return Row(metric="auc lost", must=most, ceiling=True, **facts)


def _wide(sample: Sample, name: str, found: Answered) -> Iterator[Row]:
    """Every figure of one condition."""
    yes, scored = found.scored.labels > 0, found.scored
    figures = {
        "auc": float(auc(scored)[0]),
        "sensitivity": float(scored.positives[yes].mean()),
        "specificity": float((~scored.positives[~yes]).mean()),
        "mean probability": float(scored.probabilities.mean()),
        "ece": float(expected_calibration_error(scored)[0]),
        "rejected": float(found.rejected.mean()),
    }
    for metric, value in figures.items():
        yield Row(table=TABLE, metric=metric, value=value, **_facts(sample, name))
