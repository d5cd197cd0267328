"""Input gate: does an image embedding look like that of an upright frontal chest radiograph?

Two scores, each with a limit learnt on images that the gate was not fitted on:

- ood_score: log odds of a linear head that altered copies of the training images count against
  (outlier exposure: Hendrycks et al., ICLR 2019); it also says what a picture looks like;
- distance: what standard scores leave beside the images' leading principal components (residual
  space, as in ViM: Wang et al., CVPR 2022); it notices what no copy resembles.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from cxr_mm.core.files import read_json, write_json
from cxr_mm.core.types import Frozen

JSON_FILE, WEIGHTS_FILE = "input_gate.json", "input_gate.safetensors"
IMAGE, UNLIKE = "image", "unlike"
REASONS = {
    "inverted": "black and white seem swapped",
    "upside_down": "it seems upside down",
    "sideways": "it seems turned on its side",
    "cropped": "it seems to show only a part of the chest",
    UNLIKE: "it is unlike the images that the model was trained on",
}
"""What is said of a kind; of the others, as of `UNLIKE`."""


class Limits(Frozen):
    """Scores above either of which an image is doubted."""

    ood_score: float
    distance: float


class InputGateSpec(Frozen):
    """Contents of input_gate.json."""

    kinds: tuple[str, ...]
    """What the head tells apart; `image` first."""
    refuse: Limits
    warn: Limits
    images: int
    """How many images it was fitted on."""
    limits_from: int
    """How many images its limits were learnt on."""


@dataclass(frozen=True)
class GateDecision:
    """Why a picture may be no upright frontal chest radiograph.

    Args:
        refused: whether it is to be refused; otherwise a person is to be warned.
        looks_like: one of the gate's kinds, or `unlike` where only the distance speaks.
    """

    refused: bool
    looks_like: str

    @property
    def reason(self) -> str:
        """In words."""
        return REASONS.get(self.looks_like, REASONS[UNLIKE])


@dataclass(frozen=True)
class InputGate:
    """A fitted gate.

    Args:
        spec: kinds and limits.
        mean, scale: (D,) of the training images' embeddings.
        components: (K, D) leading principal components of their standard scores.
        weight, bias: (kinds, D) and (kinds,) of the head, for standard scores at unit length.
    """

    spec: InputGateSpec
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    components: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def check(self, embeddings: NDArray[np.float32]) -> list[GateDecision | None]:
        """Embeddings (B, D) → what is to be said of each image, None where nothing is."""
        logits, distance = self.logits(embeddings), self.distance(embeddings)
        odd, likest = ood_score(logits), 1 + logits[:, 1:].argmax(axis=1)
        refuse, warn = self.spec.refuse, self.spec.warn
        refused = (odd > refuse.ood_score) | (distance > refuse.distance)
        headed = odd > warn.ood_score
        doubted = refused | headed | (distance > warn.distance)
        return [
            GateDecision(
                bool(refused[row]), self.spec.kinds[likest[row]] if headed[row] else UNLIKE
            )
            if doubted[row]
            else None
            for row in range(len(logits))
        ]

    def logits(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Embeddings (B, D) → logits (B, kinds)."""
        standard = self._standard(embeddings) / np.sqrt(len(self.mean))
        return np.asarray(standard @ self.weight.T + self.bias, np.float64)

    def distance(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Embeddings (B, D) → log mean square (B,) outside the principal components."""
        standard = self._standard(embeddings)
        explained = np.square(standard @ self.components.T).sum(axis=1)
        left = (np.square(standard).sum(axis=1) - explained) / len(self.mean)
        return np.asarray(np.log(np.maximum(left, 1e-12)), np.float64)

    def _standard(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        return (embeddings.astype(np.float64) - self.mean) / self.scale


def ood_score(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits (B, kinds) → log odds (B,) of anything but an image."""
    return np.asarray(np.logaddexp.reduce(logits[:, 1:], axis=1) - logits[:, 0], np.float64)


def save_input_gate(gate: InputGate, folder: Path) -> None:
    """Write input_gate.json and input_gate.safetensors into a folder."""
    arrays = {
        "mean": gate.mean,
        "scale": gate.scale,
        "components": gate.components,
        "weight": gate.weight,
        "bias": gate.bias,
    }
    save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, folder / WEIGHTS_FILE)
    write_json(folder / JSON_FILE, gate.spec.model_dump(mode="json"))


def load_input_gate(folder: Path) -> InputGate | None:
    """Read a gate back; None where the folder has none.

    Raises:
        OSError, ValueError, SafetensorError: a part is missing or damaged.
    """
    if not (folder / JSON_FILE).exists():
        return None
    spec = InputGateSpec.model_validate(read_json(folder / JSON_FILE))
    arrays = load_file(folder / WEIGHTS_FILE)
    if missing := {"mean", "scale", "components", "weight", "bias"} - set(arrays):
        raise ValueError(f"{WEIGHTS_FILE} lacks {', '.join(sorted(missing))}")
    return InputGate(spec, **arrays)
