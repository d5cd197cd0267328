"""Input gate: does an image embedding look like that of an upright frontal chest radiograph?

Two scores, each with a limit learnt on images that the gate was not fitted on:

- ood_score: log odds of a linear head trained against out-of-distribution copies of the training
  images (outlier exposure: Hendrycks et al., ICLR 2019), which also names the kind of copy;
- distance: residual of the standard scores outside the leading principal components of the training
  images (as in ViM: Wang et al., CVPR 2022), which detects what no copy resembles.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from cxr_mm.core.files import read_json, save_tensors, write_json
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
"""Kind → reason in words; other kinds share that of `UNLIKE`."""
NO_GATE = "This model has no input gate: it does not notice an image that is no chest radiograph"


class Limits(Frozen):
    """Scores above either of which an image is rejected or warned of."""

    ood_score: float
    distance: float


class InputGateSpec(Frozen):
    """Contents of input_gate.json."""

    kinds: tuple[str, ...]
    """Classes of the head, `image` first."""
    refuse: Limits
    warn: Limits
    images: int
    """Number of images it was fitted on."""
    limits_from: int
    """Number of images that set its limits."""
    rejected: int | None = None
    """How many of these a gate with the same limits rejects that has not seen their patient; None
    in a bundle of an earlier version."""
    copies: int | None = None
    """Number of copies of such images that are placed, exposed, cropped or stored otherwise."""
    copies_rejected: int | None = None
    """How many of these a gate rejects that has not seen the patient."""


@dataclass(frozen=True)
class GateDecision:
    """Rejection of an image, or a warning about it.

    Args:
        refused: True for a rejection, False for a warning.
        looks_like: one of the gate's kinds, or `unlike` where only the distance is above its limit.
    """

    refused: bool
    looks_like: str

    @property
    def reason(self) -> str:
        """Reason in words."""
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
        """Check embeddings (B, D); None for an image that passes."""
        logits, distance = self.logits(embeddings), self.distance(embeddings)
        score, likeliest = ood_score(logits), 1 + logits[:, 1:].argmax(axis=1)
        refuse, warn = self.spec.refuse, self.spec.warn
        refused = (score > refuse.ood_score) | (distance > refuse.distance)
        by_head = score > warn.ood_score
        warned = refused | by_head | (distance > warn.distance)
        return [
            GateDecision(
                bool(refused[row]), self.spec.kinds[likeliest[row]] if by_head[row] else UNLIKE
            )
            if warned[row]
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
    save_tensors(folder / WEIGHTS_FILE, arrays)
    write_json(folder / JSON_FILE, gate.spec.model_dump(mode="json"))


def read_gate_spec(folder: Path) -> InputGateSpec | None:
    """Read the limits of a gate; None where the folder has none.

    Raises:
        OSError, ValueError: the file is damaged.
    """
    if not (folder / JSON_FILE).exists():
        return None
    return InputGateSpec.model_validate(read_json(folder / JSON_FILE))


def load_input_gate(folder: Path) -> InputGate | None:
    """Read a gate back; None where the folder has none.

    Raises:
        OSError, ValueError, SafetensorError: a part is missing or damaged.
    """
    spec = read_gate_spec(folder)
    if spec is None:
        return None
    arrays = load_file(folder / WEIGHTS_FILE)
    if missing := {"mean", "scale", "components", "weight", "bias"} - set(arrays):
        raise ValueError(f"{WEIGHTS_FILE} lacks {', '.join(sorted(missing))}")
    return InputGate(spec, **arrays)
