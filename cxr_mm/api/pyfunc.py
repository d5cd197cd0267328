"""The loader that an MLflow model of `cxr-mm export --format mlflow` names."""

import base64
from typing import Any

import pandas as pd

from cxr_mm.api.frames import IMAGE
from cxr_mm.api.model import Model, load


class PyfuncModel:
    """A model as MLflow's flavour pyfunc calls one."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(
        self,
        data: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002  MLflow gives it
    ) -> pd.DataFrame:
        """Answer every row, see `Model.predict_frame`.

        Args:
            data: as `predict_frame` has it. Text in `image_path` is the content of a file in
                base64, not a path, so that no request reads files of the server.
            params: none are known.
        """
        if IMAGE in data:
            data = data.assign(**{IMAGE: data[IMAGE].astype(object).map(_content)})
        return self.model.predict_frame(data, progress=False)


def _content(cell: Any) -> Any:
    """What base64 stands for; other text as it is, which is no image, as the answer then says."""
    if not isinstance(cell, str):
        return cell
    try:
        return base64.b64decode(cell)
    except ValueError:
        return cell.encode()


def _load_pyfunc(path: str) -> PyfuncModel:
    """Load the bundle in a folder; MLflow calls this by name."""
    return PyfuncModel(load(path))
