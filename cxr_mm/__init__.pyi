from cxr_mm.api.classifier import StudyClassifier
from cxr_mm.api.model import Evaluation, Model, load
from cxr_mm.api.training import train
from cxr_mm.core.prediction import Prediction
from cxr_mm.explain.study import ExplainedStudy

__all__ = [
    "Evaluation",
    "ExplainedStudy",
    "Model",
    "Prediction",
    "StudyClassifier",
    "__version__",
    "load",
    "train",
]

__version__: str
