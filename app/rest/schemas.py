"""Schemas: what is asked and answered, as the OpenAPI document describes it."""

from typing import Any, Literal

from pydantic import Base64Bytes, Field

from app.feedback import Verdict
from cxr_mm.core.prediction import Prediction
from cxr_mm.core.types import Frozen, Modality
from cxr_mm.explain.what_if import WhatIf

Value = str | int | float | bool | None


class Asked(Frozen):
    """Which model is asked."""

    model: str | None = Field(
        None, description="Name of the model, as in the page's address; needed where several serve."
    )


class PredictRequest(Asked):
    """A study: any subset of its inputs."""

    image: Base64Bytes | None = Field(None, description="PNG, JPEG or DICOM, as base64.")
    clinical: dict[str, Value] | None = Field(
        None, description='Clinical features by name, as {"age": 63, "sex": "F"}.'
    )
    note: str | None = Field(None, description="Clinical note.")
    view: str | None = Field(None, description="View position, as PA or AP.")
    study_id: str | None = Field(None, description="Id to answer with; logged as a keyed hash.")
    patient_id: str | None = Field(None, description="Logged as a keyed hash.")


class ExplainRequest(PredictRequest):
    """A study, and what to explain of it."""

    findings: list[str] | None = Field(None, description="Names; none means all.")
    methods: list[str] | None = Field(
        None, description="Names; none means the faithful ones, `all` every one."
    )


class FeedbackRequest(Asked):
    """A reader's assessment of a prediction."""

    prediction: Prediction = Field(description="As /v1/predict gave it.")
    verdict: Verdict
    labels: dict[str, Value] | None = Field(
        None, description="Where the reader disagrees: finding → present, absent or not sure."
    )
    comment: str | None = Field(None, description="At most 500 characters, without names.")


class Kept(Frozen):
    """What became of feedback."""

    kept: int
    """Findings whose label was stored."""


class Parts(Frozen):
    """What adds up to a logit or probability."""

    base: float
    shares: dict[Modality, float]
    sum: float


class AttributionOf(Frozen, extra="allow"):
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


class ExplainedFinding(Frozen):
    """One finding."""

    finding: str
    logit: Parts
    probability: Parts
    attributions: list[AttributionOf]


class ExplainResponse(Frozen):
    """A study explained, in the form of `explanation.json`."""

    prediction: Prediction
    explanations: list[ExplainedFinding]
    what_if: dict[str, list[WhatIf]]
    """Finding → probability over the range of each clinical feature."""
    faithfulness: dict[str, dict[str, Any]]
    """Method → how faithful it was measured to be; empty where it was not."""


class FindingInfo(Frozen):
    """A finding that the model answers."""

    name: str
    title: str


class FeatureInfo(Frozen):
    """A clinical feature that the model reads."""

    name: str
    title: str
    type: Literal["number", "category"]
    unit: str
    minimum: float | None
    maximum: float | None
    categories: tuple[str, ...]


class ModelInfo(Frozen):
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
