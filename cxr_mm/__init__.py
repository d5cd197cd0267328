"""cxr_mm: chest radiographs, clinical features and notes, from raw files to a monitored model.

model = cxr_mm.load("models/synthetic/bundle")
model.predict(image="study.png", clinical={"age": 63}, note="Fever and cough.")
"""

import os
from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_PLACES = {
    "Evaluation": "cxr_mm.api.model",
    "ExplainedStudy": "cxr_mm.explain.study",
    "Model": "cxr_mm.api.model",
    "Prediction": "cxr_mm.core.prediction",
    "StudyClassifier": "cxr_mm.api.classifier",
    "load": "cxr_mm.api.model",
    "train": "cxr_mm.api.training",
}
"""Public name → its module, imported when the name is first used; `__init__.pyi` has the types."""
__all__ = sorted(["__version__", *_PLACES])


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Nothing leaves the machine unless asked: these are read when the libraries are imported.
for _variable, _off in {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}.items():
    os.environ.setdefault(_variable, _off)
