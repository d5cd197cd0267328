"""Bundle: everything a prediction needs, in memory and as a folder; it encodes studies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file
from torch import Tensor, nn

from cxr_mm.core.errors import BundleError, InputError, WeightsError
from cxr_mm.core.files import (
    atomic_directory,
    read_json,
    save_tensors,
    sha256_file,
    write_json,
)
from cxr_mm.core.fingerprints import Fingerprints
from cxr_mm.core.paths import BUNDLE_INDEX
from cxr_mm.core.prediction import ConformalBounds, OperatingPoint, Reason
from cxr_mm.core.study import ClinicalValue, Study
from cxr_mm.core.task import Task
from cxr_mm.core.types import MODALITIES, Modality, subset_name
from cxr_mm.data.clinical import ClinicalTransform, ClinicalValues, check_clinical
from cxr_mm.data.notes import mask_note
from cxr_mm.imaging.burnt_in_text import model_square
from cxr_mm.imaging.tensors import normalise
from cxr_mm.models.background import background_from_json, background_to_json
from cxr_mm.models.calibration import link
from cxr_mm.models.decision import Conformal, OperatingPoints
from cxr_mm.models.fusion import Fusion, FusionSpec
from cxr_mm.models.image_encoder import (
    FeatureMaps,
    FeatureTracer,
    ImageEncoder,
    load_image_encoder,
    save_image_encoder,
)
from cxr_mm.models.input_gate import NO_GATE, InputGate, load_input_gate, save_input_gate
from cxr_mm.models.note_encoder import NoteEncoder
from cxr_mm.models.precision import MEASURED_ON, SERVED, Precision, choose_precision
from cxr_mm.models.registry import FORMAT, REMEDY, BundleIndex, index_digest, read_index


@dataclass(frozen=True)
class Batch:
    """What the classifier reads.

    Args:
        mask: bool (B, 3) in canonical order.
        image: (B, 1, S, S) in [-1, 1], or None where the task has no image.
        tabular: (B, T), or None.
        note: note embeddings (B, E), or None.

    Rows of absent modalities hold anything.
    """

    mask: Tensor
    image: Tensor | None = None
    tabular: Tensor | None = None
    note: Tensor | None = None


@dataclass(frozen=True)
class Encoded:
    """Studies as a bundle reads them: each transform and encoder run once.

    Args:
        clinical: per study, checked values of every feature of the task.
        notes: per study, the masked note; empty where absent.
        shapes: per study, height and width of the image before it was fitted into the square.
        batch: what the classifier reads; its image is None where embeddings were given.
        embeddings: modality → (B, D).
        parts: modality → what `Fusion.encode` made of the embeddings.
        maps: what the embedding of the image was pooled from, where that was kept.
    """

    clinical: tuple[ClinicalValues, ...]
    notes: tuple[str, ...]
    shapes: tuple[tuple[int, int] | None, ...]
    batch: Batch
    embeddings: Mapping[Modality, Tensor]
    parts: Mapping[Modality, Tensor]
    maps: FeatureMaps | None = None

    def __len__(self) -> int:
        return len(self.clinical)

    @property
    def mask(self) -> Tensor:
        """Modalities that are present and shown, bool (B, 3)."""
        return self.batch.mask

    def modalities(self, row: int = 0) -> tuple[Modality, ...]:
        """Modalities of one study that the model sees."""
        present = self.mask[row].tolist()
        return tuple(m for m, has in zip(MODALITIES, present, strict=True) if has)

    def embedding(self, modality: Modality, row: int = 0) -> NDArray[np.float32] | None:
        """Embedding (D,) of one modality of one study; None where the model does not see it."""
        if modality not in self.modalities(row):
            return None
        vector: NDArray[np.float32] = self.embeddings[modality][row].float().numpy()
        return vector

    def row(self, row: int) -> "Encoded":
        """Take one study."""
        return self.rows([row])

    def rows(self, rows: Sequence[int]) -> "Encoded":
        """Take some studies; their tensors are copies, but feature maps, kept for one alone."""
        index, maps = list(rows), None
        if self.maps is not None and len(index) == 1:
            maps = replace(self.maps, row=self.maps.row + index[0])
        inputs = {n: t[index] for n, t in vars(self.batch).items() if t is not None}
        return Encoded(
            clinical=tuple(self.clinical[k] for k in index),
            notes=tuple(self.notes[k] for k in index),
            shapes=tuple(self.shapes[k] for k in index),
            batch=Batch(**inputs),
            embeddings={m: rows[index] for m, rows in self.embeddings.items()},
            parts={m: rows[index] for m, rows in self.parts.items()},
            maps=maps,
        )

    def showing(self, modalities: Sequence[Modality]) -> "Encoded":
        """Hide all other modalities."""
        shown = torch.tensor([m in modalities for m in MODALITIES])
        return replace(self, batch=replace(self.batch, mask=self.mask & shown))


class Classifier(nn.Module):
    """Image encoder and fusion as one differentiable function, run as `SERVED` says."""

    def __init__(self, image_encoder: ImageEncoder | None, fusion: Fusion) -> None:
        super().__init__()
        self.image_encoder, self.fusion = image_encoder, fusion
        if image_encoder is not None:
            # Weights laid out anew within inference mode could take no part in a gradient.
            with torch.inference_mode(mode=False):
                image_encoder.to(memory_format=SERVED.memory_format)  # type: ignore[call-overload]

    def embeddings(self, batch: Batch) -> dict[Modality, Tensor]:
        """What the fusion reads of each modality of the task."""
        found: dict[Modality, Tensor] = {}
        if batch.image is not None and self.image_encoder is not None:
            found["image"] = self.image_encoder(SERVED.arrange(batch.image))
        if batch.tabular is not None:
            found["tabular"] = batch.tabular
        if batch.note is not None:
            found["note"] = batch.note
        return found

    def logits(self, embeddings: Mapping[Modality, Tensor], mask: Tensor) -> Tensor:
        """Embeddings and mask (B, 3) → calibrated logits (B, F)."""
        logits: Tensor = self.fusion(embeddings, mask)
        return logits

    def forward(
        self, image: Tensor | None, tabular: Tensor | None, note: Tensor | None, mask: Tensor
    ) -> Tensor:
        """Calibrated logits (B, F); differentiable in every input."""
        batch = Batch(mask=mask, image=image, tabular=tabular, note=note)
        return self.logits(self.embeddings(batch), mask)


RECALIBRATED = "recalibrated"
"""Key of `trained_on` under which recalibrations are listed, oldest first."""

_QUICK: dict[tuple[str, int], Precision] = {}
"""Backbone and size → what this machine runs fastest; the same whatever the weights."""


def _modalities(study: Study, clinical: Mapping[str, ClinicalValue]) -> set[Modality]:
    """Modalities that carry anything; `age=unknown` alone is no clinical feature."""
    present: set[Modality] = set(study.modalities) - {"tabular"}
    return present | ({"tabular"} if any(v is not None for v in clinical.values()) else set())


def _shape(study: Study) -> tuple[int, int] | None:
    """Height and width of the image as it was read; None without one."""
    if study.image is None or study.shape is not None:
        return study.shape
    height, width = study.image.shape
    return height, width


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle, or one about to be saved. All parts are in evaluation mode."""

    task: Task
    size: int
    note_words: int
    fusion: Fusion
    clinical: ClinicalTransform
    image_encoder: ImageEncoder | None
    note_encoder: NoteEncoder | None
    decision: Reason
    operating_points: OperatingPoints
    conformal: Conformal
    trained_on: dict[str, Any]
    background: pd.DataFrame = field(default_factory=pd.DataFrame)
    """As of `draw_background`."""
    baseline_image: NDArray[np.uint8] | None = None
    """As of `mixtures`, (S, S)."""
    gate: InputGate | None = None
    fingerprints: Fingerprints | None = None
    """Of the studies trained on; None in a bundle that an earlier version wrote."""
    digest: str = ""
    mask_text: bool = False
    """Whether burnt-in text is replaced by what surrounds it, as it was in training."""

    @property
    def name(self) -> str:
        """As predictions cite it."""
        backbone = self.image_encoder.spec.backbone if self.image_encoder else "no image"
        again = ", recalibrated" if self.trained_on.get(RECALIBRATED) else ""
        return f"{self.task.name} ({self.fusion.spec.kind} fusion, {backbone}{again})"

    @property
    def unchecked(self) -> str:
        """Warning that no image is checked; empty where the input gate checks them."""
        return NO_GATE if self.task.has_image and self.gate is None else ""

    @cached_property
    def classifier(self) -> Classifier:
        """Inputs → calibrated logits, differentiable."""
        return Classifier(self.image_encoder, self.fusion).eval()

    @property
    def quick(self) -> Precision:
        """Precision in which this machine embeds many images fastest; measured when first asked.

        For explanations, which ask hundreds of altered images and weigh their answers together.
        """
        assert self.image_encoder is not None
        network = self.image_encoder.spec.backbone, self.size
        if network not in _QUICK:
            images = torch.zeros(MEASURED_ON, 1, self.size, self.size)
            _QUICK[network] = choose_precision(self.image_encoder, images)
        return _QUICK[network]

    def encode(
        self,
        studies: Sequence[Study],
        image_embeddings: NDArray[np.float32] | None = None,
        *,
        keep_maps: bool = False,
    ) -> Encoded:
        """Encode studies, by the very transforms of training.

        Args:
            studies: at least one.
            image_embeddings: (B, Di), where they are known; images are not read then.
            keep_maps: whether feature maps are kept, where every study has an image.

        Raises:
            ClinicalError, NoteError: a feature is unknown, or a note is invalid.
        """
        clinical = tuple(check_clinical(self.task.clinical, study.clinical) for study in studies)
        notes = tuple(self._masked(study) for study in studies)
        present = [_modalities(s, values) for s, values in zip(studies, clinical, strict=True)]
        used = self.task.modalities
        batch = Batch(
            mask=torch.tensor([[m in has and m in used for m in MODALITIES] for has in present]),
            image=self._images(studies) if "image" in used and image_embeddings is None else None,
            tabular=self._tabular(clinical) if "tabular" in used else None,
            note=self._notes(notes) if "note" in used else None,
        )
        has_images = batch.image is not None and all(s.image is not None for s in studies)
        maps = self.trace(batch) if keep_maps and has_images else None
        embeddings = self._embeddings_around(batch, maps) if maps else self.embeddings(batch)
        if image_embeddings is not None:
            embeddings["image"] = torch.from_numpy(image_embeddings)
        with torch.inference_mode():
            parts = {m: self.fusion.encode(m, embeddings[m]) for m in used}
        shapes = tuple(_shape(study) for study in studies)
        return Encoded(clinical, notes, shapes, batch, embeddings, parts, maps)

    def _images(self, studies: Sequence[Study]) -> Tensor:
        blank = np.zeros((self.size, self.size), dtype=np.uint8)
        return normalise(np.stack([blank if s.image is None else self._square(s) for s in studies]))

    def _square(self, study: Study) -> NDArray[np.uint8]:
        assert study.image is not None
        mask_text = self.mask_text and not study.fitted  # what is masked has no text any more
        return model_square(study.image, self.size, mask_text=mask_text)

    def fitted(self, study: Study) -> Study:
        """The study with its image as the square, which is all that the model sees of it."""
        if study.image is None:
            return study
        image = self._square(study).astype(np.float32) / np.float32(255)
        return replace(study, image=image, fitted=True, shape=_shape(study))

    def _tabular(self, clinical: Sequence[Mapping[str, ClinicalValue]]) -> Tensor:
        frame = pd.DataFrame(clinical, columns=list(self.task.clinical_names))
        return torch.from_numpy(self.clinical.apply(frame))

    def _masked(self, study: Study) -> str:
        spec = self.task.note
        return "" if spec is None else mask_note(study.note or "", spec)

    def _notes(self, notes: Sequence[str]) -> Tensor:
        assert self.note_encoder is not None
        return torch.from_numpy(self.note_encoder.embed(notes))

    @torch.inference_mode()
    def embeddings(self, batch: Batch) -> dict[Modality, Tensor]:
        """Embeddings of a batch: image (B, Di), tabular (B, T), note (B, E).

        Where a study has no image its row is zero, as in training, and the encoder is not run.
        """
        has = batch.mask[:, MODALITIES.index("image")]
        if batch.image is None or bool(has.all()):
            return self.classifier.embeddings(batch)
        found = self.classifier.embeddings(replace(batch, image=None))
        found["image"] = torch.zeros(len(has), self.fusion.spec.dims["image"])
        if has.any():
            own = replace(batch, image=batch.image[has], tabular=None, note=None)
            found["image"][has] = self.classifier.embeddings(own)["image"]
        return found

    def trace(self, batch: Batch) -> FeatureMaps:
        """Feature maps of the images of a batch, and their embeddings."""
        assert batch.image is not None
        return self._tracer(SERVED.arrange(batch.image))

    @cached_property
    def _tracer(self) -> FeatureTracer:
        encoder = self.classifier.image_encoder
        assert encoder is not None
        return FeatureTracer(encoder)

    def _embeddings_around(self, batch: Batch, maps: FeatureMaps) -> dict[Modality, Tensor]:
        """As `embeddings`, of which those of the images are known."""
        return {"image": maps.embeddings.detach(), **self.embeddings(replace(batch, image=None))}

    def loggable(self, modality: Modality) -> int:
        """How much of an embedding, from its start, may be written down.

        Hashed words could be looked up in a dictionary, so of a note it is the meaning alone.
        """
        spec = self.fusion.spec
        return spec.parts["note"][0].length if modality == "note" else spec.dims[modality]

    def logits(self, embeddings: dict[Modality, Tensor], mask: Tensor) -> Tensor:
        """Embeddings and mask (B, 3) → calibrated logits (B, F)."""
        return self.classifier.logits(embeddings, mask)

    def probabilities(self, logits: Tensor) -> NDArray[np.float64]:
        """Calibrated logits (B, F) → probabilities (B, F)."""
        return link(logits.detach(), self.task.problem).numpy()

    @cached_property
    def prior(self) -> dict[str, float]:
        """Finding → probability that the model gives to nothing at all."""
        nothing = {m: torch.zeros(1, d) for m, d in self.fusion.spec.dims.items()}
        with torch.inference_mode():
            logits = self.logits(nothing, torch.zeros(1, len(MODALITIES), dtype=torch.bool))
        result = self.probabilities(logits)[0].tolist()
        return dict(zip(self.task.finding_names, result, strict=True))

    def operating_point(
        self, finding: str, modalities: Sequence[Modality], reason: Reason | None = None
    ) -> OperatingPoint | None:
        """The operating point of a subset, the one in use where no other is asked for; None for
        multiclass."""
        points = self.operating_points.get(subset_name(modalities), {}).get(finding)
        return None if points is None else points[reason or self.decision]

    def bounds(self, modalities: Sequence[Modality]) -> list[ConformalBounds]:
        """Conformal bounds of each finding for a subset."""
        found = self.conformal[subset_name(modalities)]
        return [found[name] for name in self.task.finding_names]


BASELINE_IMAGE = "baseline.png"
FINGERPRINTS = "fingerprints.safetensors"
KEY_OF_FINGERPRINTS = "manifest_sha256"
"""Entry of `trained_on` that is the key of the fingerprints."""


def check_absent(folder: Path) -> None:
    """Check that a bundle can be written to a folder.

    Raises:
        InputError: the folder exists.
    """
    if folder.exists() or folder.is_symlink():
        raise InputError(
            "exists already, and a bundle is never overwritten",
            field=str(folder),
            remedy="Choose another folder",
        )


def save_bundle(bundle: Bundle, folder: Path) -> str:
    """Write a bundle whole or not at all; the digest is returned."""
    with atomic_directory(folder) as aside:
        _save_parts(bundle, aside)
        files = sorted(p for p in aside.rglob("*") if p.is_file())
        index = BundleIndex(
            format=FORMAT,
            name=bundle.name,
            task=bundle.task,
            size=bundle.size,
            note_words=bundle.note_words,
            mask_text=bundle.mask_text,
            decision=bundle.decision,
            operating_points=bundle.operating_points,
            conformal=bundle.conformal,
            trained_on=bundle.trained_on,
            parts={p.relative_to(aside).as_posix(): sha256_file(p) for p in files},
        )
        content = index.model_dump(mode="json")
        content["digest"] = index_digest(content)
        write_json(aside / BUNDLE_INDEX, content)
    return str(content["digest"])


def _save_parts(bundle: Bundle, folder: Path) -> None:
    state = {n: t.detach().numpy() for n, t in bundle.fusion.state_dict().items()}
    save_tensors(folder / "fusion.safetensors", state)
    write_json(folder / "fusion.json", bundle.fusion.spec.model_dump(mode="json"))
    write_json(folder / "clinical.json", bundle.clinical.to_json())
    write_json(folder / "background.json", background_to_json(bundle.background))
    if bundle.baseline_image is not None:
        Image.fromarray(bundle.baseline_image).save(folder / BASELINE_IMAGE)
    if bundle.image_encoder is not None:
        save_image_encoder(bundle.image_encoder, folder / "image_encoder")
    if bundle.gate is not None:
        save_input_gate(bundle.gate, folder)
    if bundle.fingerprints is not None:
        save_tensors(folder / FINGERPRINTS, bundle.fingerprints.hashes)
    if bundle.note_encoder is not None:
        bundle.note_encoder.save(folder / "note_encoder")


def load_bundle(folder: Path) -> Bundle:
    """Load a bundle.

    Raises:
        BundleError: the folder is no bundle, or a part is missing, damaged or foreign.
    """
    index = read_index(folder)
    task = index.task
    try:
        fusion = Fusion(FusionSpec.model_validate(read_json(folder / "fusion.json")))
        fusion.load_state_dict(load_file(folder / "fusion.safetensors"), assign=True)
        clinical = ClinicalTransform.from_json(task.clinical, read_json(folder / "clinical.json"))
        background = background_from_json(task.clinical, read_json(folder / "background.json"))
        image = load_image_encoder(folder / "image_encoder") if task.has_image else None
        gate = load_input_gate(folder)
        fingerprints = _load_fingerprints(folder, index)
        note = (
            NoteEncoder.open(str(folder / "note_encoder"), index.note_words) if task.note else None
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, WeightsError) as error:
        raise BundleError(
            f"a part does not fit this version ({error})", field=str(folder), remedy=REMEDY
        ) from error
    return Bundle(
        task=task,
        size=index.size,
        note_words=index.note_words,
        mask_text=index.mask_text,
        fusion=fusion.eval(),
        clinical=clinical,
        image_encoder=image.eval() if image else None,
        note_encoder=note,
        decision=index.decision,
        operating_points=index.operating_points,
        conformal=index.conformal,
        trained_on=index.trained_on,
        background=background,
        baseline_image=_read_image(folder / BASELINE_IMAGE, index.size),
        gate=gate,
        fingerprints=fingerprints,
        digest=index.digest,
    )


def _load_fingerprints(folder: Path, index: BundleIndex) -> Fingerprints | None:
    if FINGERPRINTS not in index.parts:
        return None
    hashes = load_arrays(folder / FINGERPRINTS)
    return Fingerprints(index.trained_on[KEY_OF_FINGERPRINTS], hashes)


def _read_image(path: Path, size: int) -> NDArray[np.uint8] | None:
    if not path.is_file():
        return None
    with Image.open(path, formats=["PNG"]) as image:
        baseline: NDArray[np.uint8] = np.asarray(image.convert("L"), dtype=np.uint8)
    if baseline.shape != (size, size):
        raise BundleError(
            f"{path.name} is not {size} x {size} pixels", field=str(path.parent), remedy=REMEDY
        )
    return baseline
