"""Presentation state: outline and numbers over the source, shown as its own header says."""

from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

import numpy as np
from highdicom import PresentationLUTTransformation, pr
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import DS

from app.pacs.objects.evidence import (
    Evidence,
    SourceImage,
    date_equipment,
    equipment,
    long_string,
    moment_of,
)
from app.pacs.objects.prepared import Prepared, Varying, elements_of
from app.pacs.objects.result import Region, Result
from app.pacs.objects.uids import derived_uid
from cxr_mm.core.prediction import NOTICE, SYNTHETIC, FindingPrediction, percent
from cxr_mm.imaging.attributes import Attributes, code_string
from cxr_mm.imaging.dicom import height_over_width

SERIES_NUMBER = 9002
LABEL = "AI RESULT"
LAYER = "AI"
VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
LINE = 0.03
"""Height of a line of text as a share of the image's."""
FINEST = 1000
"""Largest denominator of the aspect of a pixel."""


@dataclass(frozen=True)
class Line:
    """A line of text across the image: what it says, and its box in pixels."""

    text: Varying[str]
    left: Varying[float]
    top: Varying[float]
    right: Varying[float]
    bottom: Varying[float]


@dataclass(frozen=True)
class Outline:
    """The outline of a region.

    Args:
        label: what it is.
        column, row: where the label points, in pixels.
        points: how many corners, the first again at the end.
        corners: (points, 2).
    """

    label: Varying[str]
    column: Varying[float]
    row: Varying[float]
    points: Varying[int]
    corners: Varying[NDArray[np.float64]]


@dataclass(frozen=True)
class State:
    """What a presentation state shows over an image.

    Args:
        title: of the task.
        model, digest: that answered.
        lut_shape: `INVERSE` where small values are white, else `IDENTITY`.
        aspect: height and width of a pixel, as whole numbers.
        image: that it is of.
        lines: of text.
        outline: of the strongest region; None without one.
        uid: SOP instance UID of the presentation state.
        series_uid: of its series.
        date, time, moment: of the answer.
    """

    title: str
    model: str
    digest: str
    lut_shape: str
    aspect: tuple[int, int]
    image: SourceImage
    lines: tuple[Line, ...]
    outline: Outline | None
    uid: Varying[str]
    series_uid: Varying[str]
    date: Varying[str]
    time: Varying[str]
    moment: Varying[str]


def presentation_state(
    evidence: Evidence, result: Result, uid: str, made_at: datetime
) -> dict[int, bytes]:
    """Encode the annotations of one answer.

    Args:
        evidence: of the radiograph.
        result: what is told of it.
        uid: SOP instance UID of the presentation state.
        made_at: when the answer was given.
    """
    added = evidence.added(made_at, dates_content=False, body_part=True)
    attributes = Attributes(evidence.header)
    _add_modality_lut(added, attributes)
    _add_voi_lut(added, attributes)
    state = state_of(evidence, result, uid, made_at)
    return PREPARED.elements(state) | evidence.encoded | elements_of(added)


def state_of(evidence: Evidence, result: Result, uid: str, made_at: datetime) -> State:
    """What the presentation state of one answer shows."""
    ratio = height_over_width(Attributes(evidence.header))
    aspect = Fraction(ratio).limit_denominator(FINEST)
    return State(
        title=long_string(result.task.title),
        model=result.answer.prediction.model,
        digest=result.digest,
        lut_shape="INVERSE" if _is_inverted(evidence.header) else "IDENTITY",
        aspect=(aspect.numerator, aspect.denominator),
        image=evidence.image,
        lines=_placed(evidence.image, _lines(result)),
        outline=None if result.region is None else _outline(result, result.region),
        uid=uid,
        series_uid=derived_uid(uid, "series"),
        date=f"{made_at:%Y%m%d}",
        time=f"{made_at:%H%M%S}",
        moment=moment_of(made_at),
    )


def build(state: State) -> pr.GrayscaleSoftcopyPresentationState:
    """Build a presentation state by highdicom."""
    image = state.image.reference()
    layer = pr.GraphicLayer(LAYER, order=1, description="Findings of the model")
    lut = PresentationLUTTransformation(presentation_lut_shape=state.lut_shape)
    built = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        series_instance_uid=state.series_uid,
        series_number=SERIES_NUMBER,
        series_description=long_string(f"AI result: {state.title}"),
        sop_instance_uid=state.uid,
        instance_number=1,
        content_label=LABEL,
        content_description=state.title,
        graphic_annotations=[_annotation(image, state, layer)],
        graphic_layers=[layer],
        presentation_lut_transformation=lut,
        **equipment(state.model, state.digest),
    )
    date_equipment(built, state.moment)
    built.PresentationCreationDate, built.PresentationCreationTime = state.date, state.time
    built.DisplayedAreaSelectionSequence[0].PresentationPixelAspectRatio = list(state.aspect)
    return built


PREPARED = Prepared(build)


def _is_inverted(source: Dataset) -> bool:
    """Whether small values are white, which a presentation state says by its LUT's shape."""
    photometric = code_string(source, "PhotometricInterpretation")
    return photometric == "MONOCHROME1" or code_string(source, "PresentationLUTShape") == "INVERSE"


def _add_modality_lut(built: Dataset, attributes: Attributes) -> None:
    """Take over the modality LUT or rescale of the source (PS3.3 C.11.1)."""
    source = attributes.dataset
    if source.get("ModalityLUTSequence"):
        built.ModalityLUTSequence = deepcopy(source.ModalityLUTSequence)
        return
    slope, intercept = attributes.numbers("RescaleSlope"), attributes.numbers("RescaleIntercept")
    if slope and intercept and slope[0]:
        built.RescaleSlope = DS(slope[0], auto_format=True)
        built.RescaleIntercept = DS(intercept[0], auto_format=True)
        built.RescaleType = source.get("RescaleType") or "US"


def _add_voi_lut(built: Dataset, attributes: Attributes) -> None:
    """Take over the VOI LUT of the source, else its first window (PS3.3 C.11.8)."""
    source, item = attributes.dataset, Dataset()
    if source.get("VOILUTSequence"):
        item.VOILUTSequence = deepcopy(source.VOILUTSequence[:1])
    else:
        centre, width = attributes.numbers("WindowCenter"), attributes.numbers("WindowWidth")
        if not centre or not width or width[0] <= 0:
            return
        item.WindowCenter = DS(centre[0], auto_format=True)
        item.WindowWidth = DS(width[0], auto_format=True)
        if (function := code_string(source, "VOILUTFunction")) in VOI_FUNCTIONS:
            item.VOILUTFunction = function
    built.SoftcopyVOILUTSequence = [item]


def _annotation(image: Dataset, state: State, layer: pr.GraphicLayer) -> pr.GraphicAnnotation:
    graphics, texts = [], [_text(line) for line in state.lines]
    if (outline := state.outline) is not None:
        graphics.append(
            pr.GraphicObject(graphic_type="POLYLINE", graphic_data=outline.corners, units="PIXEL")
        )
        graphics[0].NumberOfGraphicPoints = outline.points
        texts.append(_label(outline))
    return pr.GraphicAnnotation(
        referenced_images=[image],
        graphic_layer=layer,
        graphic_objects=graphics or None,
        text_objects=texts,
    )


def _text(line: Line) -> pr.TextObject:
    return pr.TextObject(
        text_value=line.text,
        units="PIXEL",
        bounding_box=(line.left, line.top, line.right, line.bottom),
        text_justification="LEFT",
    )


def _label(outline: Outline) -> pr.TextObject:
    return pr.TextObject(
        text_value=outline.label,
        units="PIXEL",
        anchor_point=(outline.column, outline.row),
        anchor_point_visible=True,
    )


def _lines(result: Result) -> list[str]:
    """The findings that are positive or uncertain, the model and the notice."""
    prediction = result.answer.prediction
    shown = [f for f in prediction.findings if f.positive or f.certainty == "uncertain"]
    findings = [f"{f.title}: {_numbers(f)}" for f in shown]
    if not shown:
        findings = ["No finding at or above its operating point"]
    synthetic = [SYNTHETIC] if prediction.synthetic else []
    model = f"Model {prediction.model}, {result.digest}"
    return [*findings, *synthetic, model, NOTICE]


def _numbers(finding: FindingPrediction) -> str:
    return f"{percent(finding.probability)}, {finding.in_words}"


def _placed(image: SourceImage, lines: list[str]) -> tuple[Line, ...]:
    """Lines of text one below the other, from the upper edge of the image on."""
    height, right = min(LINE, 1 / len(lines)) * image.rows, float(image.columns)
    return tuple(
        Line(text, 0.0, top, right, min(top + height, float(image.rows)))
        for top, text in ((number * height, text) for number, text in enumerate(lines))
    )


def _outline(result: Result, region: Region) -> Outline:
    """The outline, and what it is at its uppermost corner."""
    titles = {f.finding: f.title for f in result.answer.prediction.findings}
    label = f"{titles.get(region.finding, region.finding)}: {region.method}"
    column, row = min(region.corners, key=lambda corner: corner[1])
    return Outline(label, column, row, len(region.closed), region.closed)
