"""Secondary capture: the picture with its map and, beside it, numbers, model and notice."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache

import numpy as np
from highdicom import SOPClass
from matplotlib import get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from app.pacs.objects.evidence import Evidence, SourceImage, equipment, long_string
from app.pacs.objects.prepared import Prepared, Varying, elements_of, encoded_value
from app.pacs.objects.result import Result
from app.pacs.objects.uids import derived_uid
from cxr_mm import __version__
from cxr_mm.core.prediction import NOTICE, SYNTHETIC, FindingPrediction, percent

SERIES_NUMBER = 9003
PIXEL_DATA = 0x7FE00010
PANEL = 460
"""Width of the panel of text in pixels."""
MARGIN = 16
Colour = tuple[int, int, int]
BACKGROUND, TEXT, FAINT = (16, 16, 16), (235, 235, 235), (170, 170, 170)
PLAIN, HEADING = 15, 19
DIGEST_LINE = 32
"""Characters of the digest on one line: all 64 are there, on two."""


@dataclass(frozen=True)
class Capture:
    """What a secondary capture says beside its pixels.

    Args:
        description: of its series.
        model, digest: that answered.
        burnt_in: whether text is burnt in that names someone: YES, NO, or None for what the
            source does not say.
        image: that was read.
        uid: SOP instance UID of the capture.
        series_uid: of its series.
        date, time: of the answer.
        rows, columns: of its pixels.
    """

    description: str
    model: str
    digest: str
    burnt_in: str | None
    image: SourceImage
    uid: Varying[str]
    series_uid: Varying[str]
    date: Varying[str]
    time: Varying[str]
    rows: Varying[int]
    columns: Varying[int]


def secondary_capture(
    evidence: Evidence, result: Result, uid: str, made_at: datetime
) -> dict[int, bytes]:
    """Encode the colour picture of one answer.

    Args:
        evidence: of the radiograph.
        result: what is told of it; without `map_image` the picture is the text alone.
        uid: SOP instance UID of the picture.
        made_at: when the answer was given.
    """
    pixels = draw(result, made_at)
    added = evidence.added(made_at, dates_content=True, body_part=True)
    capture = capture_of(evidence, result, uid, made_at, pixels)
    return (
        PREPARED.elements(capture)
        | evidence.encoded
        | elements_of(added)
        | {PIXEL_DATA: encoded_value(PIXEL_DATA, "OB", pixels.reshape(-1).data)}
    )


def capture_of(
    evidence: Evidence, result: Result, uid: str, made_at: datetime, pixels: NDArray[np.uint8]
) -> Capture:
    """What the capture of one answer says."""
    # The text beside the picture names no one: what is burnt in is what the source has.
    burnt_in = evidence.header.get("BurnedInAnnotation")
    return Capture(
        description=long_string(f"AI result: {result.task.title}"),
        model=result.answer.prediction.model,
        digest=result.digest,
        burnt_in=burnt_in if burnt_in in ("YES", "NO") else None,
        image=evidence.image,
        uid=uid,
        series_uid=derived_uid(uid, "series"),
        date=f"{made_at:%Y%m%d}",
        time=f"{made_at:%H%M%S}",
        rows=pixels.shape[0],
        columns=pixels.shape[1],
    )


def build(capture: Capture) -> SOPClass:
    """Build a capture, without its pixels, by highdicom."""
    built = SOPClass(
        study_instance_uid=capture.image.study,
        series_instance_uid=capture.series_uid,
        series_number=SERIES_NUMBER,
        series_description=capture.description,
        sop_instance_uid=capture.uid,
        sop_class_uid=SecondaryCaptureImageStorage,
        instance_number=1,
        modality="OT",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **equipment(capture.model, capture.digest),
    )
    built.ConversionType = "WSD"
    built.ImageType = ["DERIVED", "SECONDARY"]
    built.DateOfSecondaryCapture, built.TimeOfSecondaryCapture = capture.date, capture.time
    built.DerivationDescription = "Map of influence over the radiograph, with findings beside it"
    built.PatientOrientation = ""
    built.SourceImageSequence = [capture.image.item()]
    if capture.burnt_in is not None:
        built.BurnedInAnnotation = capture.burnt_in
    built.Rows, built.Columns, built.SamplesPerPixel = capture.rows, capture.columns, 3
    built.PhotometricInterpretation, built.PlanarConfiguration = "RGB", 0
    built.BitsAllocated, built.BitsStored, built.HighBit = 8, 8, 7
    built.PixelRepresentation = 0
    return built


PREPARED = Prepared(build)


def draw(result: Result, made_at: datetime) -> NDArray[np.uint8]:
    """Draw the picture, and the panel of text to its right, uint8 (H, W, 3)."""
    picture = result.map_image
    if picture is None:
        picture = np.empty((0, 0, 3), np.uint8)
    panel = np.asarray(_panel(lines_of(result, made_at), picture.shape[0]))
    canvas = np.empty((len(panel), picture.shape[1] + PANEL, 3), np.uint8)
    canvas[: len(picture), :-PANEL] = picture
    canvas[len(picture) :, :-PANEL] = BACKGROUND
    canvas[:, -PANEL:] = panel
    return canvas


def lines_of(result: Result, made_at: datetime) -> Iterator[tuple[str, int, Colour]]:
    """Every line of the panel, before wrapping: text, size in pixels, colour."""
    prediction = result.answer.prediction
    yield result.task.title, HEADING, TEXT
    if prediction.synthetic:
        yield SYNTHETIC, PLAIN, TEXT
    for finding in prediction.findings:
        yield "", PLAIN, TEXT
        yield f"{finding.title}: {_decision(finding)}", HEADING, TEXT
        yield _numbers(finding), PLAIN, TEXT
    yield "", PLAIN, TEXT
    if result.map_title:
        yield f"Map: {result.map_title}", PLAIN, FAINT
    for warning in result.all_warnings:
        yield f"Warning: {warning}", PLAIN, TEXT
    yield f"Model {prediction.model}, cxr-mm {__version__}", PLAIN, FAINT
    for start in range(0, len(result.digest), DIGEST_LINE):
        yield result.digest[start : start + DIGEST_LINE], PLAIN, FAINT
    yield f"{made_at:%Y-%m-%d %H:%M:%S}", PLAIN, FAINT
    yield "", PLAIN, TEXT
    yield NOTICE, PLAIN, TEXT


def _decision(finding: FindingPrediction) -> str:
    decided = "positive" if finding.positive else "negative"
    if finding.threshold is None:
        decided = "likeliest" if finding.positive else "less likely"
    return f"{decided}, uncertain" if finding.certainty == "uncertain" else decided


def _numbers(finding: FindingPrediction) -> str:
    probability = f"Probability {percent(finding.probability)}"
    if finding.threshold is None:
        return probability
    return f"{probability}, operating point {percent(finding.threshold)}"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which has Greek and Cyrillic too, as matplotlib ships it."""
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _panel(lines: Iterable[tuple[str, int, Colour]], shortest: int) -> Image.Image:
    """The lines one below the other, on at least so many pixels."""
    drawn = [picture for text, size, colour in lines for picture in _drawn(text, size, colour)]
    height = 2 * MARGIN + sum(picture.height for picture in drawn)
    panel, top = Image.new("RGB", (PANEL, max(shortest, height)), BACKGROUND), MARGIN
    for picture in drawn:
        panel.paste(picture, (0, top))
        top += picture.height
    return panel


@lru_cache(maxsize=256)
def _drawn(text: str, size: int, colour: Colour) -> tuple[Image.Image, ...]:
    """A text as lines that fit the panel; most are the same in every picture."""
    font, height, found = _font(size), round(size * 1.35), []
    for line in _wrapped(text, font):
        picture = Image.new("RGB", (PANEL, height), BACKGROUND)
        ImageDraw.Draw(picture).text((MARGIN, 0), line, fill=colour, font=font)
        found.append(picture)
    return tuple(found)


def _wrapped(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """The words of a text in lines that fit the panel."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > PANEL - 2 * MARGIN:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
