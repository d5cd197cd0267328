"""Synthetic studies written as files: images, masks, manifest.csv and truth.csv."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxr_mm.core.files import atomic_directory, write_json
from cxr_mm.core.processes import end_with_parent
from cxr_mm.core.progress import ProgressBar
from cxr_mm.data.synthetic.notes import write_note
from cxr_mm.data.synthetic.phantom import draw_image
from cxr_mm.data.synthetic.population import (
    CLINICAL,
    Case,
    Row,
    SynthesisSpec,
    absent_modalities,
    draw_cases,
    labels,
    reported_clinical,
)

DESCRIPTION = "SYNTHETIC phantom chest radiograph drawn by cxr_mm; not a patient"
BATCH = 20
"""Images that a process draws at a time."""
SPAWN_FROM = 200
"""Below this many images, starting processes takes longer than drawing."""


def synthesise(out: Path, spec: SynthesisSpec, workers: int = 2) -> Path:
    """Generate a population and write it to `out`, whole or not at all.

    Leaves `manifest.csv` (one row per study, the layout of the manifest CSV source),
    `images/STUDY.png`, `masks/STUDY.png` (8-bit; bit 1 consolidation, bit 2 effusion, as drawn,
    also where the label is missing), `truth.csv` (the latent state) and `spec.json`. The same
    specification gives the same bytes, whatever the number of workers.

    Args:
        out: folder to write; an existing one is replaced.
        spec: how many studies, and the dials.
        workers: processes; 1 draws in this one.

    Returns:
        `out`.
    """
    cases = draw_cases(spec)
    with atomic_directory(out) as aside:
        for name in ("images", "masks"):
            (aside / name).mkdir()
        _table([manifest_row(spec, case) for case in cases]).to_csv(
            aside / "manifest.csv", index=False
        )
        _table([truth_row(spec, case) for case in cases]).to_csv(aside / "truth.csv", index=False)
        write_json(aside / "spec.json", spec.model_dump())
        with_image = [case for case in cases if not absent_modalities(spec, case)["image"]]
        with ProgressBar(total=len(with_image), desc="phantoms", unit="image") as bar:
            for drawn in _images(aside, spec, with_image, workers):
                bar.update(drawn)
    return out


def study_id(spec: SynthesisSpec, case: Case) -> str:
    """Id of a study; populations of different seeds share none."""
    return f"syn{spec.seed}-{case.index:05d}"


def manifest_row(spec: SynthesisSpec, case: Case) -> dict[str, object]:
    """The inputs of a study and its labels."""
    absent = absent_modalities(spec, case)
    name = study_id(spec, case)
    clinical: Row = dict.fromkeys(CLINICAL)
    if not absent["tabular"]:
        clinical = reported_clinical(spec, case)
    return {
        "study_id": name,
        "patient_id": f"syn{spec.seed}-P{case.patient.index:05d}",
        "image_path": None if absent["image"] else f"images/{name}.png",
        "view": case.illness.view,
        "site": case.patient.site,
        "note": None if absent["note"] else write_note(spec, case),
        **clinical,
        **labels(spec, case),
    }


def truth_row(spec: SynthesisSpec, case: Case) -> dict[str, object]:
    """The latent state of a study, which no model may read."""
    illness = asdict(case.illness)
    illness["side_consolidation"], illness["side_effusion"] = illness.pop("sides")
    return {"study_id": study_id(spec, case), **illness}


def write_image(out: Path, spec: SynthesisSpec, case: Case) -> None:
    """Draw one study's image and mask into `out`/images and `out`/masks."""
    pixels, mask = draw_image(spec, case)
    _write_png(out / "images" / f"{study_id(spec, case)}.png", pixels, level=1)
    _write_png(out / "masks" / f"{study_id(spec, case)}.png", mask, level=6)


def _write_png(path: Path, pixels: NDArray[np.uint8], level: int) -> None:
    info = PngInfo()
    info.add_text("Description", DESCRIPTION)
    Image.fromarray(pixels).save(path, pnginfo=info, compress_level=level)


def _images(out: Path, spec: SynthesisSpec, cases: list[Case], workers: int) -> Iterator[int]:
    """Draw every image; yields how many were done each time some are."""
    batches = [cases[at : at + BATCH] for at in range(0, len(cases), BATCH)]
    draw = partial(_draw_batch, out, spec)
    if workers <= 1 or len(cases) < SPAWN_FROM:
        yield from map(draw, batches)
        return
    # Spawned rather than forked: a process that holds torch's threads must not be forked.
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(batches))
    with ProcessPoolExecutor(workers, context, initializer=end_with_parent) as pool:
        yield from pool.map(draw, batches)


def _draw_batch(out: Path, spec: SynthesisSpec, cases: list[Case]) -> int:
    for case in cases:
        write_image(out, spec, case)
    return len(cases)


def _table(rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame([{name: _text(value) for name, value in row.items()} for row in rows])


def _text(value: object) -> str:
    """A cell: empty where not known, numbers without needless decimals."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
