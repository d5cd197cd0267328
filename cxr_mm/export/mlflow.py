"""MLflow: a model folder of the flavour pyfunc, which answers as `Model.predict_frame` does.

Nothing is pickled: MLflow imports the loader by its name and hands it the folder of the bundle.
"""

import base64
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from PIL import Image

from cxr_mm import __version__
from cxr_mm.core.files import atomic_directory, check_replaceable
from cxr_mm.core.prediction import NOTICE
from cxr_mm.core.task import Task
from cxr_mm.data.synthetic.phantom import draw_image
from cxr_mm.data.synthetic.population import SynthesisSpec, draw_cases
from cxr_mm.export.extras import check_packages
from cxr_mm.inference.table import ERROR, PredictionTable
from cxr_mm.models.bundle import Bundle, load_bundle

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

LOADER = "cxr_mm.api.pyfunc"
"""Module that MLflow loads the bundle by; named, since it is above this one."""
DESCRIPTION = "MLmodel"
NOTE = "Fever and productive cough for three days."
TYPES = {pa.string(): "string", pa.float64(): "double", pa.bool_(): "boolean"}
"""Types of a table of predictions, as MLflow calls them."""


def export_mlflow(bundle: Path, folder: Path) -> Path:
    """Write a model folder for `mlflow models serve`, whole or not at all.

    Args:
        bundle: folder of the bundle.
        folder: to write.

    Raises:
        BundleError: no bundle is there, or it is damaged.
        InputError: MLflow is not installed, or the folder has other files.
        StorageError: it cannot be written.
    """
    check_replaceable(folder, DESCRIPTION)
    given = pyfunc_arguments(bundle)
    import mlflow.pyfunc

    with atomic_directory(folder) as aside:
        mlflow.pyfunc.save_model(aside, **given)
    return folder


def pyfunc_arguments(bundle: Path) -> dict[str, Any]:
    """Arguments of `mlflow.pyfunc.log_model` and `save_model` for a bundle.

    The input is a table with any of `study_id`, `image_path` (the content of a PNG, JPEG or DICOM
    file in base64), `view`, the note, and a column for each clinical feature; the output is that
    of `Model.predict_frame`.

    Args:
        bundle: its folder.

    Raises:
        BundleError: no bundle is there, or it is damaged.
        InputError: MLflow is not installed.
    """
    check_packages("mlflow", ("mlflow.pyfunc",))
    from mlflow.version import VERSION

    loaded = load_bundle(bundle)
    task = loaded.task
    return {
        "loader_module": LOADER,
        "data_path": str(bundle),
        "signature": _signature(task),
        "input_example": _example(loaded),
        "pip_requirements": [f"cxr-mm=={__version__}", f"mlflow-skinny=={VERSION}"],
        "metadata": {"task": task.name, "synthetic": task.synthetic, "notice": NOTICE},
    }


def _signature(task: Task) -> "ModelSignature":
    """Columns and types of what goes in and what comes out; none is required."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    answers = PredictionTable(task.finding_names).schema(**{ERROR: pa.string()})
    return ModelSignature(
        inputs=Schema(
            [ColSpec(kind, name, required=False) for name, kind in _inputs(task).items()]
        ),
        outputs=Schema([ColSpec(TYPES[each.type], each.name, required=False) for each in answers]),
    )


def _inputs(task: Task) -> dict[str, str]:
    """Columns of the input → type in MLflow."""
    columns = {"study_id": "string"}
    if task.has_image:
        columns |= {"image_path": "string", "view": "string"}
    if task.note:
        columns[task.note.column] = "string"
    return columns | {f.name: "double" if f.type == "number" else "string" for f in task.clinical}


def _example(bundle: Bundle) -> pd.DataFrame:
    """One study with everything that the task uses: a phantom, a note, and means."""
    task, means = bundle.task, bundle.clinical.mean
    row: dict[str, Any] = {"study_id": "example"}
    if task.has_image:
        row |= {"image_path": _phantom(), "view": "PA"}
    if task.note:
        row[task.note.column] = NOTE
    row |= {
        f.name: round(means[f.name], 1) if f.type == "number" else f.categories[0]
        for f in task.clinical
    }
    return pd.DataFrame([row])


def _phantom() -> str:
    """A PNG of a synthetic radiograph, in base64."""
    spec, stream = SynthesisSpec(studies=1), BytesIO()
    Image.fromarray(draw_image(spec, draw_cases(spec)[0])[0]).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
