"""Presentation state: outline and numbers over the source, shown as its own header says."""

from copy import deepcopy
from datetime import datetime
from fractions import Fraction

from highdicom import PresentationLUTTransformation, pr
from pydicom.dataset import Dataset
from pydicom.valuerep import DS

from app.pacs.objects.evidence import complete, equipment, long_string, reference_of
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


def presentation_state(
    source: Dataset, result: Result, uid: str, made_at: datetime
) -> pr.GrayscaleSoftcopyPresentationState:
    """Build the annotations of one answer.

    Args:
        source: header of the radiograph.
        result: what is told of it.
        uid: SOP instance UID of the presentation state.
        made_at: when the answer was given.
    """
    image = reference_of(source)
    layer = pr.GraphicLayer(LAYER, order=1, description="Findings of the model")
    shape = "INVERSE" if _is_inverted(source) else "IDENTITY"
    built = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        series_instance_uid=derived_uid(uid, "series"),
        series_number=SERIES_NUMBER,
        series_description=long_string(f"AI result: {result.task.title}"),
        sop_instance_uid=uid,
        instance_number=1,
        content_label=LABEL,
        content_description=long_string(result.task.title),
        graphic_annotations=[_annotation(image, result, layer)],
        graphic_layers=[layer],
        presentation_lut_transformation=PresentationLUTTransformation(presentation_lut_shape=shape),
        **equipment(result.answer.prediction.model, result.digest),
    )
    built.PresentationCreationDate = f"{made_at:%Y%m%d}"
    built.PresentationCreationTime = f"{made_at:%H%M%S}"
    attributes = Attributes(source)
    _add_modality_lut(built, attributes)
    _add_voi_lut(built, attributes)
    ratio = Fraction(height_over_width(attributes)).limit_denominator(FINEST)
    area = built.DisplayedAreaSelectionSequence[0]
    area.PresentationPixelAspectRatio = [ratio.numerator, ratio.denominator]
    return complete(built, source, made_at)


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


def _annotation(image: Dataset, result: Result, layer: pr.GraphicLayer) -> pr.GraphicAnnotation:
    lines = _lines(result)
    height = min(LINE, 1 / len(lines)) * image.Rows
    texts = [_line(image, number * height, height, text) for number, text in enumerate(lines)]
    graphics = []
    if result.region is not None:
        graphics.append(_outline(result.region))
        texts.append(_label(result, result.region))
    return pr.GraphicAnnotation(
        referenced_images=[image],
        graphic_layer=layer,
        graphic_objects=graphics or None,
        text_objects=texts,
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


def _line(image: Dataset, top: float, height: float, text: str) -> pr.TextObject:
    """A line of text across the image."""
    return pr.TextObject(
        text_value=text,
        units="PIXEL",
        bounding_box=(0.0, top, float(image.Columns), min(top + height, float(image.Rows))),
        text_justification="LEFT",
    )


def _outline(region: Region) -> pr.GraphicObject:
    return pr.GraphicObject(graphic_type="POLYLINE", graphic_data=region.closed, units="PIXEL")


def _label(result: Result, region: Region) -> pr.TextObject:
    """What the outline is, at its uppermost corner."""
    titles = {f.finding: f.title for f in result.answer.prediction.findings}
    return pr.TextObject(
        text_value=f"{titles.get(region.finding, region.finding)}: {region.method}",
        units="PIXEL",
        anchor_point=min(region.corners, key=lambda corner: corner[1]),
        anchor_point_visible=True,
    )
