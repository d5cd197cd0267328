"""Scoring many studies, and predicting one, against the bare networks on tensors in memory."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.bare import bare_forward
from benchmarks.rounds import Seconds, in_turn
from benchmarks.small_task import SmallTask
from cxr_mm.contracts.modality import MODALITIES
from cxr_mm.contracts.study import Study
from cxr_mm.data.cache import open_pixels
from cxr_mm.data.dataset import image_batches
from cxr_mm.data.radiograph import read_radiograph
from cxr_mm.data.sources.manifest_csv import read_manifest_csv
from cxr_mm.data.sources.synthetic import SynthesisSpec, synthesise
from cxr_mm.inference import Predictor, load_predictor
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.classifier import SERVED
from cxr_mm.scoring import BATCH, BadRow, iter_studies, score
from cxr_mm.training.film_embeddings import film_embeddings

ROUNDS, FILMS = 5, 96
STUDIES, REPEATS = 10, 4
"""Studies that are predicted one by one, and how often each."""


def make_films(folder: Path, side: int) -> Path:
    """A manifest CSV of synthetic studies, each of which has all modalities."""
    spec = SynthesisSpec(studies=FILMS, size=side, image_absent=0, tabular_absent=0, note_absent=0)
    synthesise(folder, spec)
    return folder / "manifest.csv"


def scoring_from_cache(small: SmallTask) -> Seconds:
    """Probabilities of every film of the pixel cache; the task's only modality is the image."""
    bundle, pixels = load_predictor(small.paths.bundle).bundle, open_pixels(small.paths.pixels)
    encoder = bundle.classifier.image_encoder
    assert encoder is not None
    mask = torch.tensor([[m == "image" for m in MODALITIES]]).expand(len(pixels), -1)

    @torch.inference_mode()
    def path() -> None:
        shutil.rmtree(small.paths.root / ".cache", ignore_errors=True)
        films = film_embeddings(encoder, small.paths, SERVED.name)
        bundle.probabilities(bundle.logits({"image": torch.from_numpy(films)}, mask))

    batches = list(image_batches(pixels, np.arange(len(pixels)), BATCH))
    return in_turn({"path": path, "bare": bare_forward(encoder, batches, SERVED)}, ROUNDS)


def scoring_from_files(predictor: Predictor, manifest: Path) -> Seconds:
    """`score` on a manifest of PNG files; the task's only modality is the image."""
    bundle, out = predictor.bundle, manifest.with_suffix(".parquet")
    studies = [study for _, study in _filed(predictor, manifest)]
    groups = (studies[start : start + BATCH] for start in range(0, len(studies), BATCH))
    batches = [batch.image for batch in map(bundle.prepare, groups) if batch.image is not None]
    encoder = bundle.classifier.image_encoder
    assert encoder is not None
    ways = {
        "path": lambda: score(predictor, manifest, out),
        "bare": bare_forward(encoder, batches, SERVED),
    }
    return in_turn(ways, ROUNDS)


def one_prediction(predictor: Predictor, manifest: Path) -> Seconds:
    """One study at a time: film read from its file (`file`), in memory (`memory`), and `bare`."""
    taken: Seconds = {"file": [], "memory": [], "bare": []}
    for path, study in itertools.islice(_filed(predictor, manifest), STUDIES):
        for name, seconds in in_turn(_ways(predictor, path, study), REPEATS).items():
            taken[name] += seconds
    return taken


def _filed(predictor: Predictor, manifest: Path) -> Iterator[tuple[Path, Study]]:
    """Each study with the path of its film."""
    task = predictor.bundle.task
    paths = read_manifest_csv(manifest, task, labels_required=False)["image_path"]
    for path, study in zip(paths, iter_studies(task, manifest), strict=True):
        if isinstance(study, BadRow):
            raise ValueError(f"{study.study_id}: {study.reason}")
        yield Path(path), study


def _ways(predictor: Predictor, path: Path, study: Study) -> dict[str, Callable[[], object]]:
    def from_file() -> None:
        film = read_radiograph(path)
        predictor.predict(
            replace(study, image=film.pixels, warnings=film.warnings, quality=film.quality)
        )

    return {
        "file": from_file,
        "memory": lambda: predictor.predict(study),
        "bare": _bare_networks(predictor.bundle, study),
    }


def _bare_networks(bundle: Bundle, study: Study) -> Callable[[], object]:
    """All networks of the bundle on one study, what they read ready in memory."""
    notes, read = bundle.note_encoder, list[tuple[Tensor, ...]]()
    hook = notes.register_forward_pre_hook(lambda _, given: read.append(given)) if notes else None
    batch = bundle.prepare([study])
    if hook is not None:
        hook.remove()

    @torch.inference_mode()
    def run() -> None:
        for tokens in read:
            assert notes is not None
            notes(*tokens)
        bundle.classifier(batch.image, batch.tabular, batch.note, batch.mask)

    return run
