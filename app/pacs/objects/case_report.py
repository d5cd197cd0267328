"""Case report: one answer on sheets of A4, as PDF. It names no one: its object's header does."""

from collections.abc import Iterator
from datetime import datetime

import numpy as np
from fpdf import FPDF
from fpdf.enums import XPos, YPos
from matplotlib import get_data_path
from numpy.typing import NDArray
from PIL import Image

from app.pacs.objects import codes
from app.pacs.objects.result import Result
from cxr_mm import __version__
from cxr_mm.core.prediction import NOTICE, SYNTHETIC, FindingPrediction, percent
from cxr_mm.imaging.geometry import grey

FONT = "DejaVu"
MARGIN, GAP, LINE = 15.0, 4.0, 5.0
"""Millimetres: around a sheet, between parts, and of a line of text."""
HEADING, PLAIN, SMALL = 14, 10, 8
"""Points."""
TALLEST = 90.0
"""Millimetres of a picture."""
COLUMNS = ("Finding", "Probability", "Operating point", "Answer")
WIDTHS = (50, 24, 30, 76)
"""Millimetres of the columns: what a sheet holds."""


def case_report(result: Result, made_at: datetime) -> bytes:
    """Draw the report: notice, pictures, findings, inputs, warnings, model.

    Args:
        result: what is told; without pictures the report is its text.
        made_at: when the answer was given.

    Returns:
        A PDF.
    """
    sheet = _sheet(result, made_at)
    _write(sheet, f"Case report: {result.task.title}", HEADING, bold=True)
    _write(sheet, NOTICE, bold=True)
    if result.answer.prediction.synthetic:
        _write(sheet, SYNTHETIC, bold=True)
    _place_pictures(sheet, result)
    _place_findings(sheet, result.answer.prediction.findings)
    for heading, lines in _parts(result, made_at):
        sheet.ln(GAP)
        _write(sheet, heading, PLAIN + 1, bold=True)
        for line in lines:
            _write(sheet, line)
    return bytes(sheet.output())


def _sheet(result: Result, made_at: datetime) -> FPDF:
    sheet = FPDF(format="A4")
    folder = f"{get_data_path()}/fonts/ttf"  # has Greek and Cyrillic too
    sheet.add_font(FONT, fname=f"{folder}/DejaVuSans.ttf")
    sheet.add_font(FONT, style="B", fname=f"{folder}/DejaVuSans-Bold.ttf")
    sheet.set_margin(MARGIN)
    sheet.set_auto_page_break(True, MARGIN)
    sheet.set_title(f"Case report: {result.task.title}")
    sheet.set_creator(f"cxr-mm {__version__}")
    sheet.set_creation_date(made_at.astimezone())
    sheet.set_lang("en")
    sheet.add_page()
    return sheet


def _write(sheet: FPDF, text: str, size: int = PLAIN, *, bold: bool = False) -> None:
    """A paragraph across the sheet."""
    sheet.set_font(FONT, "B" if bold else "", size)
    height = LINE * size / PLAIN
    sheet.multi_cell(0, height, text, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _place_pictures(sheet: FPDF, result: Result) -> None:
    """The image and its map side by side, each with what it is."""
    shown = [
        (pixels, title)
        for pixels, title in (
            (None if result.picture is None else grey(result.picture), "The image as read"),
            (result.map_image, result.map_title),
        )
        if pixels is not None
    ]
    if not shown:
        return
    sheet.ln(GAP)
    width, top, bottom = (sheet.epw - GAP) / 2, sheet.get_y(), sheet.get_y()
    for number, (pixels, title) in enumerate(shown):
        left = MARGIN + number * (width + GAP)
        sheet.set_xy(left, top + _place(sheet, pixels, left, top, width))
        sheet.set_font(FONT, "", SMALL)
        sheet.multi_cell(width, LINE * SMALL / PLAIN, title, align="L")
        bottom = max(bottom, sheet.get_y())
    sheet.set_xy(MARGIN, bottom)


def _place(sheet: FPDF, pixels: NDArray[np.uint8], left: float, top: float, width: float) -> float:
    """Place a picture (H, W, 3) in its own aspect; returns its height."""
    aspect = float(pixels.shape[1] / pixels.shape[0])
    height = min(TALLEST, width / aspect)
    sheet.image(Image.fromarray(pixels), x=left, y=top, w=height * aspect)
    return height


def _place_findings(sheet: FPDF, findings: tuple[FindingPrediction, ...]) -> None:
    sheet.ln(GAP)
    sheet.set_font(FONT, "", PLAIN)
    with sheet.table(
        col_widths=WIDTHS, line_height=LINE, text_align="LEFT", borders_layout="HORIZONTAL_LINES"
    ) as table:
        table.row(COLUMNS)
        for each in findings:
            point = "" if each.threshold is None else percent(each.threshold)
            table.row((each.title, percent(each.probability), point, each.in_words))


def _parts(result: Result, made_at: datetime) -> Iterator[tuple[str, list[str]]]:
    """Headings, each with its lines."""
    prediction = result.answer.prediction
    yield "Inputs used", [", ".join(codes.INPUTS[m].meaning for m in prediction.modalities)]
    if "tabular" in prediction.modalities and (values := _clinical(result)):
        yield "Clinical values", values
    if result.all_warnings:
        yield "Warnings", list(result.all_warnings)
    identity = [f"{prediction.model}, cxr-mm {__version__}", f"Digest {result.digest}"]
    yield "Model", [*identity, f"Answered {made_at:%Y-%m-%d %H:%M:%S}"]


def _clinical(result: Result) -> list[str]:
    """Every clinical value that is known, with its unit."""
    lines = []
    for feature in result.task.clinical:
        value = result.answer.clinical.get(feature.name)
        if value is not None:
            text = f"{value:g}{feature.unit_suffix}" if isinstance(value, float) else str(value)
            lines.append(f"{feature.title}: {text}")
    return lines
