"""ONNX: image encoder, fusion and calibration as one graph, without what explains and checks.

Reading and fitting images, the transform of clinical features and the note encoder stay outside:
`Bundle.encode` gives a study's inputs, and `model.json` says what they are.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cxr_mm.core.files import atomic_directory, check_replaceable, write_json
from cxr_mm.core.prediction import NOTICE
from cxr_mm.core.types import MODALITIES
from cxr_mm.export.extras import check_packages
from cxr_mm.imaging.tensors import MEAN, STD
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.calibration import link

GRAPH, DESCRIPTION = "model.onnx", "model.json"
PACKAGES = ("onnx", "onnxscript")
EXAMPLES = 2
"""Rows that the graph is traced with; it takes any number."""


class _Graph(nn.Module):
    """Inputs of the task's modalities and mask → logits and probabilities."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.classifier, self.problem = bundle.classifier, bundle.task.problem

    def forward(
        self, image: Tensor | None, tabular: Tensor | None, note: Tensor | None, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = self.classifier(image, tabular, note, mask)
        return logits, link(logits, self.problem)


def export_onnx(bundle: Bundle, folder: Path) -> Path:
    """Write `model.onnx` and `model.json` into a folder, whole or not at all.

    Inputs, those of the task's modalities alone, with any number of rows B: image float32
    (B, 1, S, S) in [-1, 1], tabular float32 (B, T), note float32 (B, E), mask bool (B, 3); rows of
    absent modalities hold anything. Outputs: calibrated logits (B, F), probabilities (B, F).

    Raises:
        InputError: the packages of the extra `onnx` are not installed, or the folder has other
            files.
        StorageError: it cannot be written.
    """
    check_replaceable(folder, DESCRIPTION)
    check_packages("onnx", PACKAGES)
    given = _examples(bundle)
    names = [name for name, rows in given.items() if rows is not None]
    batch = torch.export.Dim("batch")
    shapes = {name: None if rows is None else {0: batch} for name, rows in given.items()}
    with atomic_directory(folder) as aside:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts among one another
            for name in ("onnxscript", "onnx_ir"):  # what its optimiser removes
                logging.getLogger(name).setLevel(logging.WARNING)
            torch.onnx.export(
                _Graph(bundle).eval(),
                tuple(given.values()),
                aside / GRAPH,
                input_names=names,
                output_names=["logits", "probabilities"],
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
        write_json(aside / DESCRIPTION, _description(bundle, names))
    return folder


def _examples(bundle: Bundle) -> dict[str, Tensor | None]:
    """Zeros of every input's shape; None where the task has no such modality."""
    widths, used = bundle.fusion.spec.dims, bundle.task.modalities
    square = torch.zeros(EXAMPLES, 1, bundle.size, bundle.size)
    return {
        "image": square if "image" in used else None,
        "tabular": torch.zeros(EXAMPLES, widths["tabular"]) if "tabular" in used else None,
        "note": torch.zeros(EXAMPLES, widths["note"]) if "note" in used else None,
        "mask": torch.ones(EXAMPLES, len(MODALITIES), dtype=torch.bool),
    }


def _description(bundle: Bundle, names: list[str]) -> dict[str, Any]:
    """What goes in and comes out, for who writes a program around the graph."""
    task, size = bundle.task, bundle.size
    inputs = {
        "image": {
            "shape": ["B", 1, size, size],
            "values": f"(grey - {MEAN}) / {STD} of a square in [0, 1], air dark, the radiograph"
            " fitted into it and 0 around it",
        },
        "tabular": {
            "shape": ["B", len(bundle.clinical.columns)],
            "columns": list(bundle.clinical.columns),
            "transform": bundle.clinical.to_json(),
        },
        "note": {
            "shape": ["B", bundle.fusion.spec.dims.get("note", 0)],
            "values": "the embedding of Bundle.encode: sentence encoder, then hashed words",
        },
        "mask": {"shape": ["B", len(MODALITIES)], "columns": list(MODALITIES)},
    }
    return {
        "name": bundle.name,
        "digest": bundle.digest,
        "task": task.name,
        "problem": task.problem,
        "inputs": {name: inputs[name] for name in names},
        "outputs": {
            "logits": ["B", len(task.findings)],
            "probabilities": ["B", len(task.findings)],
        },
        "findings": [{"name": f.name, "title": f.title} for f in task.findings],
        "thresholds": {
            subset: {name: points[bundle.decision].threshold for name, points in found.items()}
            for subset, found in bundle.operating_points.items()
        },
        "synthetic": task.synthetic,
        "notice": NOTICE,
    }
