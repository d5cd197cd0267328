"""Command `export`: a bundle for other runtimes, for the hub and for MLflow."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cxr_mm.cli.predict import PANEL, BundleFolder

commands = typer.Typer()


class Format(StrEnum):
    """What a bundle can be exported as."""

    ONNX = "onnx"
    HUB = "hub"
    MLFLOW = "mlflow"


@commands.command(rich_help_panel=PANEL)
def export(
    bundle: BundleFolder,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="`onnx`: encoder, fusion and calibration as one graph. `hub`: a folder for the "
            "Hugging Face Hub. `mlflow`: a model folder of the flavour pyfunc.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Export a bundle as ONNX, or as a folder for the Hugging Face Hub or MLflow."""
    if form is Format.MLFLOW:
        from cxr_mm.export.mlflow import export_mlflow

        print(export_mlflow(bundle, out))
        return
    from cxr_mm.models.bundle import load_bundle

    loaded = load_bundle(bundle)
    if form is Format.ONNX:
        from cxr_mm.export.onnx import export_onnx

        print(export_onnx(loaded, out))
        return
    from cxr_mm.core.paths import reports_of
    from cxr_mm.export.hub import export_hub

    print(export_hub(loaded, out, reports_of(bundle, loaded.task.name)))
