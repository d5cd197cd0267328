"""Bundle files: what a prediction needs in one folder of safetensors and JSON, under one digest.

bundle.json                 task, parameters, operating points, bounds, digests of all other files
fusion.json, .safetensors   shape and weights of the fusion, calibration included
clinical.json               the fitted clinical transform
background.json, .png       what stands for a patient of whom nothing is known
image_encoder/              weights and shape (where the task has an image)
gate.json, .safetensors     what tells foreign pictures from films (where one was learnt)
note_encoder/               weights, configuration, tokenizer (where it has a note)
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cxr_mm.contracts.frozen import Frozen
from cxr_mm.contracts.prediction import Reason
from cxr_mm.contracts.task import Task
from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.errors import BundleError, WeightsError
from cxr_mm.files import folder_written_aside, read_json, sha256_file, to_json, write_json
from cxr_mm.models.background import background_from_json, background_to_json
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.conformal import Conformal
from cxr_mm.models.film_gate import load_film_gate, save_film_gate
from cxr_mm.models.fusion import Fusion, FusionSpec
from cxr_mm.models.image_encoder import load_image_encoder, save_image_encoder
from cxr_mm.models.note_encoder import NoteEncoder
from cxr_mm.models.operating_point import OperatingPoints

FORMAT = 4
INDEX = "bundle.json"
BACKGROUND_FILM = "background.png"


class BundleIndex(Frozen):
    """What bundle.json says."""

    format: int
    name: str
    task: Task
    size: int
    """Side of the square image in pixels."""
    note_tokens: int
    note_words: int
    decision: Reason
    """The operating point that predictions use."""
    operating_points: OperatingPoints
    conformal: Conformal
    """Bounds between which an answer cannot be ruled out."""
    trained_on: dict[str, Any]
    """Digest of the manifest, numbers of studies and patients, parameters."""
    parts: dict[str, str]
    """File → sha256."""
    digest: str = ""
    """sha256 over all of the above."""

    def computed_digest(self) -> str:
        """Digest of everything but the digest."""
        text = to_json(self.model_dump(mode="json", exclude={"digest"}))
        return hashlib.sha256(text.encode()).hexdigest()


def save_bundle(bundle: Bundle, folder: Path) -> str:
    """Write a bundle whole or not at all; the digest is returned."""
    with folder_written_aside(folder) as aside:
        _save_parts(bundle, aside)
        files = sorted(p for p in aside.rglob("*") if p.is_file())
        index = BundleIndex(
            format=FORMAT,
            name=bundle.name,
            task=bundle.task,
            size=bundle.size,
            note_tokens=bundle.note_tokens,
            note_words=bundle.note_words,
            decision=bundle.decision,
            operating_points=bundle.operating_points,
            conformal=bundle.conformal,
            trained_on=bundle.trained_on,
            parts={p.relative_to(aside).as_posix(): sha256_file(p) for p in files},
        )
        digest = index.computed_digest()
        sealed = index.model_copy(update={"digest": digest})
        write_json(aside / INDEX, sealed.model_dump(mode="json"))
    return digest


def _save_parts(bundle: Bundle, folder: Path) -> None:
    state = {n: t.detach().contiguous() for n, t in bundle.fusion.state_dict().items()}
    save_file(state, folder / "fusion.safetensors")
    write_json(folder / "fusion.json", bundle.fusion.spec.model_dump(mode="json"))
    write_json(folder / "clinical.json", bundle.clinical.to_json())
    write_json(folder / "background.json", background_to_json(bundle.background))
    if bundle.background_film is not None:
        Image.fromarray(bundle.background_film).save(folder / BACKGROUND_FILM)
    if bundle.image_encoder is not None:
        save_image_encoder(bundle.image_encoder, folder / "image_encoder")
    if bundle.gate is not None:
        save_film_gate(bundle.gate, folder)
    if bundle.note_encoder is not None:
        bundle.note_encoder.save(folder / "note_encoder")


def read_index(folder: Path) -> BundleIndex:
    """Read bundle.json and check every part against its digest.

    Raises:
        BundleError: the folder is no bundle, or a part is missing, added or changed.
    """
    try:
        raw = read_json(folder / INDEX)
        index = BundleIndex.model_validate(raw)
    except FileNotFoundError as error:
        raise BundleError(
            f"there is no {INDEX} in it", field=str(folder), remedy="Name a bundle's folder"
        ) from error
    except (ValueError, ValidationError) as error:
        raise BundleError(
            f"{INDEX} is damaged or of another version", field=str(folder), remedy=_MEND
        ) from error
    _check_parts(folder, index)
    return index


_MEND = "Copy the bundle again, or run the stage fuse again"


def _check_parts(folder: Path, index: BundleIndex) -> None:
    if index.format != FORMAT:
        raise BundleError(
            f"its format is {index.format}, this version reads {FORMAT}", field=str(folder)
        )
    if index.computed_digest() != index.digest:
        raise BundleError(f"{INDEX} was changed", field=str(folder), remedy=_MEND)
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {INDEX}
    for part in sorted(there ^ set(index.parts)):
        what = "is missing" if part in index.parts else "does not belong to it"
        raise BundleError(f"{part} {what}", field=str(folder), remedy=_MEND)
    for part, digest in index.parts.items():
        if sha256_file(folder / part) != digest:
            raise BundleError(
                f"{part} was changed: its digest differs", field=str(folder), remedy=_MEND
            )


def load_bundle(folder: Path) -> Bundle:
    """Load a bundle.

    Raises:
        BundleError: the folder is no bundle, or a part is missing, damaged or foreign.
    """
    index = read_index(folder)
    task = index.task
    try:
        fusion = Fusion(FusionSpec.model_validate(read_json(folder / "fusion.json")))
        fusion.load_state_dict(load_file(folder / "fusion.safetensors"))
        clinical = ClinicalTransform.from_json(task.clinical, read_json(folder / "clinical.json"))
        background = background_from_json(task.clinical, read_json(folder / "background.json"))
        image = load_image_encoder(folder / "image_encoder") if task.has_image else None
        gate = load_film_gate(folder)
        note = (
            NoteEncoder.open(str(folder / "note_encoder"), index.note_tokens, index.note_words)
            if task.note
            else None
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, WeightsError) as error:
        raise BundleError(
            f"a part does not fit this version ({error})", field=str(folder), remedy=_MEND
        ) from error
    return Bundle(
        task=task,
        size=index.size,
        note_tokens=index.note_tokens,
        note_words=index.note_words,
        fusion=fusion.eval(),
        clinical=clinical,
        image_encoder=image.eval() if image else None,
        note_encoder=note,
        decision=index.decision,
        operating_points=index.operating_points,
        conformal=index.conformal,
        trained_on=index.trained_on,
        background=background,
        background_film=_read_film(folder / BACKGROUND_FILM, index.size),
        gate=gate,
        digest=index.digest,
    )


def _read_film(path: Path, size: int) -> NDArray[np.uint8] | None:
    if not path.is_file():
        return None
    with Image.open(path, formats=["PNG"]) as image:
        film: NDArray[np.uint8] = np.asarray(image.convert("L"), dtype=np.uint8)
    if film.shape != (size, size):
        raise BundleError(
            f"{path.name} is not {size} x {size} pixels", field=str(path.parent), remedy=_MEND
        )
    return film
