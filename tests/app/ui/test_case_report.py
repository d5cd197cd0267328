"""Case report: what is on the sheet, in which order, and what never is."""

import base64
import re
import shutil
import subprocess
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app.ui.case_report import LONGEST, MOST_TYPED, case_report, write_case_report
from cxr_mm.core.errors import InputError
from cxr_mm.core.prediction import NOTICE

NOTE = "Fever and a <b>particular</b> cough."


@pytest.fixture(scope="module")
def full(service, tmp_path_factory):
    """A study with every input and a machine-made id, answered."""
    path = tmp_path_factory.mktemp("images") / "DOE-JANE.png"
    pixels = np.random.default_rng(0).integers(0, 255, (900, 700), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    values = {f.name: None for f in service.task.clinical} | {"age": "64"}
    return service.answer(service.study(str(path), values, NOTE, "PA"))


@pytest.fixture(scope="module")
def page(service, full):
    return case_report(service, full, service.task.finding_names[1], "grad_cam")


def pictures(page):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(BytesIO(base64.b64decode(text))) for text in found]


def test_every_finding_stands_with_its_operating_point_and_conformal_word(service, full, page):
    result = full.answer.prediction
    for found in result.findings:
        point = service.bundle.operating_point(found.finding, result.modalities)
        assert found.title in page
        assert f"sensitivity {point.sensitivity:.2f}, specificity {point.specificity:.2f}" in page
        assert f"<strong>{found.certainty}</strong>" in page


def test_the_operating_point_is_the_one_that_the_reader_chose(service, full, page):
    chosen = service.at(full, "high_specificity")
    text = case_report(service, chosen, service.task.finding_names[0], "grad_cam")
    assert "Operating point: high specificity" in text
    assert "Operating point: high specificity" not in page


def test_model_task_time_and_notices_are_named(service, page):
    assert NOTICE in page
    assert "SYNTHETIC" in page
    assert service.task.title in page
    assert service.bundle.name in page
    assert service.bundle.digest in page
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", page)


def test_image_and_overlay_are_small_and_come_with_how_to_read_them(page):
    assert [max(p.size) for p in pictures(page)] == [LONGEST, LONGEST]
    assert "where the model looked, not proof of disease" in page
    assert "has not been measured for this model" in page


def test_the_page_loads_nothing_and_runs_nothing(page):
    assert not re.findall(r"https?:|<script|<link|@import|url\(", page)
    assert set(re.findall(r'src="(.{5})', page)) == {"data:"}


def test_values_come_with_units_and_what_is_missing_is_said(page):
    assert "Age: 64 years" in page
    assert "Temperature: not known" in page


def test_warnings_stand_before_the_numbers(page):
    assert page.index("Before you read on") < page.index('class="cxr-bar"')


def test_nobody_is_named_who_was_not_typed_in(full, page):
    assert full.study.study_id not in page
    assert "DOE-JANE" not in page
    assert "Study id" not in page


def test_a_typed_study_id_and_typed_lines_are_printed_and_escaped(service):
    session = service.answer(service.study(None, {"age": 64}, None, None, "ward<7>"))
    typed = {"Reader": "Dr <i>A", "Case <1>": "R\n7", "Nothing": "  "}
    page = case_report(service, session, service.task.finding_names[0], "grad_cam", typed)
    for text in ("ward&lt;7&gt;", "Dr &lt;i&gt;A", "Case &lt;1&gt;", "R 7"):
        assert text in page
    assert "Nothing" not in page


def test_a_typed_line_that_is_too_long_is_refused_by_its_name(service, full):
    finding = service.task.finding_names[0]
    with pytest.raises(InputError, match="81 characters") as caught:
        case_report(service, full, finding, "grad_cam", {"Reader": "x" * (MOST_TYPED + 1)})
    assert caught.value.field == "Reader"


def test_the_note_is_printed_only_where_the_reader_wants_it(service, full, page):
    assert "particular" not in page
    assert "Note: used" in page
    wanted = case_report(service, full, service.task.finding_names[0], "grad_cam", with_note=True)
    assert "particular" in wanted
    assert "<b>" not in wanted


def test_without_a_image_there_is_no_picture_and_it_is_said(service):
    session = service.answer(service.study(None, {}, NOTE))
    page = case_report(service, session, service.task.finding_names[0], "grad_cam")
    assert pictures(page) == []
    assert "No image was given" in page
    assert "Image: not given" in page


def test_a_finding_that_the_task_has_not_is_refused(service, full):
    with pytest.raises(InputError, match="no such finding"):
        case_report(service, full, "fracture", "grad_cam")


def test_two_reports_of_one_second_do_not_share_a_file(tmp_path):
    first, second = (write_case_report(text, tmp_path / "out", "icu") for text in ("one", "two"))
    assert re.fullmatch(r"cxr-mm-icu-\d{8}T\d{6}Z\.html", first.name)
    assert (first.read_text(), second.read_text()) == ("one", "two")
    assert [p for p in first.parent.iterdir() if p != first] == []


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium to print")
def test_it_prints_on_one_sheet(service, full, tmp_path):
    typed = {"Reader": "Dr Example", "Case reference": "R-7"}
    html = case_report(
        service, full, service.task.finding_names[0], "grad_cam", typed, with_note=True
    )
    path, sheet = write_case_report(html, tmp_path, "synthetic"), tmp_path / "sheet.pdf"
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    command = ["chromium", *words, "--no-pdf-header-footer", f"--print-to-pdf={sheet}", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert re.findall(rb"/Type /Page\b", sheet.read_bytes()) == [b"/Type /Page"]
