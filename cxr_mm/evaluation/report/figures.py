"""Figures: metrics.json, read only if it is of the very bundle, and the headline for DVC."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import DIGEST_SHOWN
from cxr_mm.core.types import AVAILABLE
from cxr_mm.evaluation.report.text import headline

METRICS_FILE, CARD_FILE, PLOTS_FOLDER = "metrics.json", "model_card.md", "plots"
PAGE_FILE = "index.html"
HEADLINE_METRICS = ("sensitivity", "specificity", "accuracy", "brier", "ece")


def read_metrics(reports: Path, task: str, digest: str) -> dict[str, Any]:
    """Read metrics.json of a bundle, and check that the model card is of the same one.

    Args:
        reports: folder that `evaluate` wrote.
        task: name of the task.
        digest: of the bundle.

    Raises:
        StageError: one of the two is missing, cannot be read, or is of another model.
    """
    remedy = f"Run dvc repro evaluate@{task}, or dvc checkout after git checkout"
    try:
        metrics: dict[str, Any] = read_json(reports / METRICS_FILE)
        card = (reports / CARD_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StageError(
            f"there is no readable {METRICS_FILE} with its {CARD_FILE}",
            field=str(reports),
            remedy=remedy,
        ) from error
    found = str(metrics.get("digest", ""))
    if found != digest or digest not in card:
        other = found[:DIGEST_SHOWN] if found != digest else "the one that the card names"
        raise StageError(
            f"the figures are of another model, {other or 'unnamed'}, "
            f"and the bundle is {digest[:DIGEST_SHOWN]}",
            field=str(reports),
            remedy=remedy,
        )
    return metrics


def read_card(reports: Sequence[Path], task: str, digest: str) -> tuple[dict[str, Any], str]:
    """Read metrics.json and the model card of a bundle from the first folder that has a card.

    Raises:
        StageError: as `read_metrics`, for the last folder where none has a card.
    """
    folder = next((f for f in reports if (f / CARD_FILE).is_file()), reports[-1])
    metrics = read_metrics(folder, task, digest)
    return metrics, (folder / CARD_FILE).read_text(encoding="utf-8")


def headline_figures(metrics: dict[str, Any]) -> dict[str, float | None]:
    """The dozen values of headline.json, which `dvc metrics` and `dvc exp show` compare.

    They are of the studies with whatever inputs each has; means over findings where there are
    several.
    """
    found = headline(metrics["subsets"][AVAILABLE])
    low, high = found["auc"]["ci95"] or (None, None)
    gain = metrics.get("fusion_gain") or {}
    best = headline(gain)["difference"]["value"] if "findings" in gain else None
    return {
        "studies": metrics["n_studies"],
        "patients": metrics["n_patients"],
        "auc": found["auc"]["value"],
        "auc_low": low,
        "auc_high": high,
        **{name: found[name]["value"] for name in HEADLINE_METRICS},
        "fusion_gain": best,
    }
