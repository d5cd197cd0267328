"""Reading service in a real browser: every kind of input, and every kind of bad file."""

import sqlite3
import zlib
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from tests.browser.conftest import visitor

FAULT = ".fault:visible"


def opened(window, url):
    """The window, once Gradio has drawn the page and run its script, which is the last it does."""
    window.goto(url)
    window.wait_for_selector("#predict")
    window.wait_for_function("window.page")
    return window


def give_image(window, path):
    window.locator("#study-image input[type=file]").set_input_files(path)


def preview(window):
    window.wait_for_selector("#image-preview img")


def predict(window):
    window.locator("#predict").click()
    window.wait_for_selector("#answer .cxr-bar")


def dicom(path, pixels):
    """A DICOM of 12 bits with a window, the patient's name and what the form may take."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.SOPClassUID, file.SOPInstanceUID = DigitalXRayImageStorageForPresentation, "1.2.3"
    file.Modality, file.BodyPartExamined, file.ViewPosition = "DX", "CHEST", "PA"
    file.PatientName, file.PatientID = "Doe^Jane", "4711"
    file.PatientAge, file.PatientSex = "063Y", "F"
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.WindowCenter, file.WindowWidth = 2048, 4096
    file.PixelData = (pixels.astype(np.uint16) * 16).tobytes()
    file.save_as(path, enforce_file_format=True)
    return path


def age_field(window):
    """The field of the age: `Age` is part of the label of an image, too."""
    fields = window.locator("input:not([type=file]),textarea")
    return fields.and_(window.get_by_label("Age")).first


def test_a_image_alone_is_answered_and_explained(window, site):
    opened(window, site.url)
    give_image(window, site.images[0])
    preview(window)
    predict(window)
    window.wait_for_selector("#overlay img")
    assert "Image: used" in window.locator("#answer").inner_text()
    assert "Note: not given" in window.locator("#answer").inner_text()


def test_a_note_alone_is_answered_with_its_words_in_colour(window, site):
    opened(window, site.url)
    window.get_by_label("Clinical note").fill("Fever and productive cough for three days.")
    predict(window)
    window.wait_for_selector(".cxr-word")
    assert "Image: not given" in window.locator("#answer").inner_text()


def test_a_feature_alone_is_answered_and_can_be_moved(window, site):
    opened(window, site.url)
    age_field(window).fill("63")
    predict(window)
    assert "Clinical features: used" in window.locator("#answer").inner_text()
    window.get_by_role("button", name="What if").click()
    window.get_by_label("Smoking").nth(1).click()
    window.get_by_role("option").nth(1).click()
    window.wait_for_selector("#what-if .cxr-moved")
    assert "Smoking were" in window.locator("#what-if").inner_text()


def test_all_three_are_answered_and_another_operating_point_is_drawn(window, site):
    opened(window, site.url)
    give_image(window, site.images[1])
    preview(window)
    age_field(window).fill("63")
    window.get_by_label("Clinical note").fill("Fever and cough.")
    predict(window)
    before = window.locator("#answer").inner_text()
    assert before.count(": used") == 3
    window.get_by_label("Operating point", exact=True).click()
    window.get_by_role("option", name="high sensitivity").click()
    window.wait_for_function(
        "document.querySelector('#answer').innerText.includes('high sensitivity')"
    )


def test_nothing_at_all_is_said_beside_the_button(window, site):
    opened(window, site.url)
    window.locator("#predict").click()
    window.wait_for_selector(FAULT)
    assert "Nothing was given yet" in window.locator(FAULT).inner_text()


def test_a_value_out_of_range_is_said_by_its_label(window, site):
    opened(window, site.url)
    age_field(window).fill("630")
    window.locator("#predict").click()
    window.wait_for_selector(FAULT)
    assert "Age (0 to 120 years)" in window.locator(FAULT).inner_text()


def test_a_dicom_is_windowed_and_fills_the_form_only_when_asked(window, site, tmp_path):
    pixels = np.asarray(Image.open(site.images[2]).convert("L"))
    opened(window, site.url)
    give_image(window, dicom(tmp_path / "image", pixels))
    preview(window)
    age = age_field(window)
    assert age.input_value() == ""
    fill = window.get_by_role("button", name="Fill the form with these")
    fill.click()
    window.wait_for_function(
        "[...document.querySelectorAll('input,textarea')].some(f => f.value === '63')"
    )
    window.get_by_role("button", name="Display").click()
    session = window.locator("#image-preview img").get_attribute("src")
    window.get_by_label("Inverted").check()
    window.wait_for_function(
        "before => document.querySelector('#image-preview img').getAttribute('src') !== before",
        arg=session,
    )
    predict(window)
    text = window.locator("body").inner_text()
    assert "Doe" not in text
    assert "4711" not in text


def bad_png(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)


def text(path):
    path.write_text("<script>alert(1)</script>")


def huge(path):
    """12,000 × 12,000 pixels in a small file."""
    header = (12_000).to_bytes(4, "big") * 2 + b"\x08\0\0\0\0"
    chunk = len(header).to_bytes(4, "big") + b"IHDR" + header
    chunk += zlib.crc32(b"IHDR" + header).to_bytes(4, "big")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def tiny(path):
    Image.new("L", (8, 8)).save(path, format="PNG")


def half_dicom(path):
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0")


def colours(path):
    """A picture that is no image."""
    bars = np.zeros((200, 300, 3), dtype=np.uint8)
    bars[:, ::20], bars[::15, :, 1] = (255, 40, 0), 200
    Image.fromarray(bars).save(path, format="PNG")


@pytest.mark.parametrize("make", [bad_png, text, huge, tiny, half_dicom])
def test_a_bad_file_is_said_beside_the_image(window, site, tmp_path, make):
    path = tmp_path / "image <b>.png"
    make(path)
    opened(window, site.url)
    give_image(window, path)
    window.wait_for_selector(FAULT)
    assert "image" in window.locator(FAULT).inner_text()
    assert window.locator(f"{FAULT} b").count() == 0


def test_a_picture_that_is_no_image_is_refused_or_doubted(window, site, tmp_path):
    colours(tmp_path / "bars.png")
    opened(window, site.url)
    give_image(window, tmp_path / "bars.png")
    preview(window)
    window.locator("#predict").click()
    window.wait_for_selector(f"{FAULT}, .warn")


def test_feedback_reaches_the_log(window, site):
    def outcomes():
        with sqlite3.connect(site.database) as database:
            return database.execute("select count(*) from outcomes").fetchone()[0]

    before = outcomes()
    opened(window, site.url)
    window.get_by_label("Clinical note").fill("Fever.")
    predict(window)
    window.get_by_role("button", name="Your assessment").click()
    window.get_by_label("Comment").fill("plain")
    window.get_by_role("button", name="Send").click()
    window.locator("p[role=status]", has_text="Stored").wait_for()
    assert outcomes() > before


def test_the_report_is_downloaded(window, site):
    opened(window, site.url)
    give_image(window, site.images[3])
    preview(window)
    predict(window)
    window.get_by_role("button", name="Report of this case").click()
    window.get_by_label("Reader").fill("Dr Ada")
    window.get_by_role("button", name="Make the report").click()
    button = window.get_by_role("button", name="Download (HTML")
    button.wait_for()
    with window.expect_download() as waiting:
        button.click()
    page = waiting.value.path().read_text(encoding="utf-8")
    assert "Dr Ada" in page
    assert "data:image/png" in page


def test_a_slow_method_is_explained_when_it_is_asked_for(window, site):
    opened(window, site.url)
    give_image(window, site.images[4])
    preview(window)
    predict(window)
    window.wait_for_selector("#overlay img")
    window.get_by_label("How the image is explained").click()
    window.get_by_role("option", name="LIME").click()
    window.wait_for_function("document.body.innerText.includes('Local fit')")


@pytest.mark.parametrize("size", [(1366, 768), (390, 844), (820, 1180)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen(browser, site, size, scheme, tmp_path):
    context = visitor(browser, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    window = opened(context.new_page(), site.url)
    window.get_by_label("Clinical note").fill("Fever and cough, no effusion.")
    predict(window)
    window.wait_for_selector(".cxr-word")
    wide = window.evaluate("document.documentElement.scrollWidth")
    window.screenshot(path=tmp_path / "page.png", full_page=True)
    context.close()
    assert wide <= size[0]
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_every_control_has_a_name(window, site):
    opened(window, site.url)
    unnamed = window.evaluate(
        """[...document.querySelectorAll('input, textarea, select, button')]
        .filter(f => f.offsetParent && !(f.labels?.length || f.ariaLabel || f.innerText.trim()
          || f.title || f.getAttribute('aria-labelledby') || f.placeholder))
        .map(f => f.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []


def walk(window, until, most=80):
    """Tab on until a thing has the focus; what had it on the way, by its outer HTML."""
    seen = []
    for _ in range(most):
        window.keyboard.press("Tab")
        seen.append(window.evaluate("document.activeElement.outerHTML.slice(0, 300)"))
        if window.evaluate(f"document.activeElement.matches({until!r})"):
            return seen
    pytest.fail(f"{until} is not reached by Tab: {seen[-5:]}")


def test_a_study_is_read_by_keyboard_alone(window, site):
    opened(window, site.url)
    walk(window, "textarea")
    window.keyboard.type("Fever and cough.")
    walk(window, "#predict")
    window.keyboard.press("Enter")
    window.wait_for_selector("#answer .cxr-bar")
    window.wait_for_selector(".cxr-word")
    assert "Note: used" in window.locator("#answer").inner_text()
    walk(window, "[aria-label^='Operating point']")
    window.keyboard.press("ArrowDown")
    window.keyboard.press("ArrowDown")
    window.keyboard.press("Enter")
    window.wait_for_function(
        "!document.querySelector('#answer').innerText.includes('prevalence')", timeout=10_000
    )


def test_tab_is_trapped_nowhere_on_the_answered_page(window, site):
    opened(window, site.url)
    window.get_by_label("Clinical note").fill("Fever and cough.")
    predict(window)
    window.wait_for_selector(".cxr-word")
    window.wait_for_timeout(1000)
    passed = walk(window, "[role=tab]", most=150)  # below Predict, and round to the top
    assert len(passed) > 5
    assert all(one != other for one, other in pairwise(passed))
