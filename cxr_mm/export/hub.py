"""Hugging Face Hub: a folder to upload: bundle, model card with the hub's metadata, backbone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from cxr_mm.core.files import atomic_directory, check_replaceable, write_text
from cxr_mm.core.paths import BUNDLE_INDEX
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE
from cxr_mm.evaluation.report.figures import read_card
from cxr_mm.models.backbones import grey_statistics
from cxr_mm.models.bundle import Bundle, save_bundle
from cxr_mm.models.image_encoder import ImageEncoder
from cxr_mm.models.torchvision_compat import timm

BUNDLE, CARD = "bundle", "README.md"
TAGS = ("chest-x-ray", "medical-imaging", "multimodal")
METRICS = {"auc": "roc_auc", "brier": "brier_score", "ece": "expected_calibration_error"}
"""Figure of metrics.json → the hub's name of it."""


def export_hub(bundle: Bundle, folder: Path, reports: Sequence[Path]) -> Path:
    """Write a folder that can be uploaded to the hub as it is, whole or not at all.

    `bundle/` is what `cxr_mm.load` reads. README.md is the model card under the hub's metadata.
    Where the backbone is one of timm's, `config.json` and `model.safetensors` are what
    `timm.create_model("hf-hub:NAME", pretrained=True)` reads: grey images (B, 1, S, S), no head.

    Args:
        bundle: to export.
        folder: to write.
        reports: folders that may have the card of this very bundle.

    Raises:
        StageError: there is no model card of it, without which no model should be published.
        InputError: the folder has other files.
        StorageError: it cannot be written.
    """
    check_replaceable(folder, f"{BUNDLE}/{BUNDLE_INDEX}")
    metrics, card = read_card(reports, bundle.task.name, bundle.digest)
    with atomic_directory(folder) as aside:
        save_bundle(bundle, aside / BUNDLE)
        encoder = bundle.image_encoder
        if encoder is not None and timm.is_model(encoder.spec.backbone):
            _save_backbone(encoder, aside)
        write_text(aside / CARD, f"---\n{_metadata(bundle.task, metrics)}\n---\n\n{card}")
    return folder


def _save_backbone(encoder: ImageEncoder, folder: Path) -> None:
    """Write the backbone under timm's names, with what it expects of grey images."""
    mean, std = grey_statistics(encoder.backbone)
    size = (1, encoder.spec.size, encoder.spec.size)
    config = {"input_size": size, "mean": (mean,), "std": (std,)}
    timm.models.save_for_hf(encoder.backbone, folder, data_config=config, safe_serialization=True)


def _metadata(task: Task, metrics: dict[str, Any]) -> str:
    """The YAML that the hub reads: tags, licence and figures of held-out studies."""
    figures = metrics["subsets"][AVAILABLE]["findings"]
    results = [
        EvalResult(
            task_type="image-classification" if task.has_image else "tabular-classification",
            dataset_type=task.name,
            dataset_name=f"{finding.title}: {task.title}",
            dataset_config=finding.name,
            dataset_split="held out",
            metric_type=kind,
            metric_value=figures[finding.name][name]["value"],
        )
        for finding in task.findings
        for name, kind in METRICS.items()
        if figures[finding.name][name]["value"] is not None
    ]
    data = ModelCardData(
        model_name=task.name,
        library_name="cxr-mm",
        pipeline_tag=results[0].task_type if results else None,
        license="other",
        license_name="as-in-the-card",
        license_link=CARD,
        tags=[*TAGS, *(["synthetic-data"] if task.synthetic else [])],
        eval_results=results,
    )
    return str(data.to_yaml())
