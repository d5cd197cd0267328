"""Schemas: what is asked and answered, as the OpenAPI document describes it."""

from typing import Any, Literal

from pydantic import Base64Bytes

from app.feedback import Verdict
from cxr_mm.core.prediction import Prediction
from cxr_mm.core.types import Frozen, Modality
from cxr_mm.explain.what_if import WhatIf

Value = str | int | float | bool | None


class Described(Frozen, use_attribute_docstrings=True):
    """What the document describes by the words below each field."""


class ModelRequest(Described):
    """Which model is asked."""

    model: str | None = None
    """Name of the model, as in the page's address; needed where several serve."""


class PredictRequest(ModelRequest):
    """A study: any subset of its inputs."""

    image: Base64Bytes | None = None
    """PNG, JPEG or DICOM, as base64."""
    clinical: dict[str, Value] | None = None
    """Clinical features by name, as {"age": 63, "sex": "F"}."""
    note: str | None = None
    """Clinical note."""
    view: str | None = None
    """View position, as PA or AP."""
    study_id: str | None = None
    """Id to answer with; logged as a keyed hash."""
    patient_id: str | None = None
    """Logged as a keyed hash."""


class ExplainRequest(PredictRequest):
    """A study, and what to explain of it."""

    findings: list[str] | None = None
    """Names; none means all."""
    methods: list[str] | None = None
    """Names; none means the faithful ones, `all` every one."""


class FeedbackRequest(ModelRequest):
    """A reader's assessment of a prediction."""

    prediction: Prediction
    """As /v1/predict gave it."""
    verdict: Verdict
    labels: dict[str, Value] | None = None
    """Where the reader disagrees: finding → present, absent or not sure."""
    comment: str | None = None
    """At most 500 characters, without names."""


class StoredLabels(Described):
    """What became of feedback."""

    stored: int
    """Findings whose label was stored."""


class Parts(Described):
    """What adds up to a logit or probability."""

    base: float
    shares: dict[Modality, float]
    sum: float


class AttributionOf(Described, extra="allow"):
    """What one method says of one modality, with further figures of its own."""

    modality: Modality
    method: str
    base: float | None
    output: float | None
    names: list[str] | None = None
    """Of clinical features, or words of the note."""
    values: list[float | None] | None = None
    """What each of them adds, in logits."""
    image: str | None = None
    """The image with the map over it, as a data URL of a PNG."""


class ExplainedFinding(Described):
    """One finding."""

    finding: str
    logit: Parts
    probability: Parts
    attributions: list[AttributionOf]


class ExplainResponse(Described):
    """A study explained, in the form of `explanation.json`."""

    prediction: Prediction
    explanations: list[ExplainedFinding]
    what_if: dict[str, list[WhatIf]]
    """Finding → probability over the range of each clinical feature."""
    faithfulness: dict[str, dict[str, Any]]
    """Method → how faithful it was measured to be; empty where it was not."""


class FindingInfo(Described):
    """A finding that the model answers."""

    name: str
    title: str


class FeatureInfo(Described):
    """A clinical feature that the model reads."""

    name: str
    title: str
    type: Literal["number", "category"]
    unit: str
    minimum: float | None
    maximum: float | None
    categories: tuple[str, ...]


class ModelInfo(Described):
    """The model that serves now, and what it reads."""

    name: str
    """To ask for it, where several serve."""
    task: str
    title: str
    problem: str
    model: str
    digest: str
    modalities: tuple[Modality, ...]
    findings: list[FindingInfo]
    clinical: list[FeatureInfo]
    methods: list[str]
    """Of explanation."""
    synthetic: bool
    notice: str
    trouble: str
    """Why it is not the one pointed to; empty where it is."""
