"""Files of which some attribute is odd: the pixels are right, or the reader says what it assumed.

Each is a made-up ramp, so the right pixels are known; the odd attribute is the only difference.
"""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.radiograph import read_radiograph
from tests.imaging.test_dicom import RAMP, STORED, dataset, image, saved

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

WINDOW = {"WindowCenter": 700, "WindowWidth": 1000}
PLAIN = read_radiograph(image(**WINDOW)).pixels


def agrees(data, like=PLAIN):
    found = read_radiograph(data)
    np.testing.assert_allclose(found.pixels, like, atol=2e-3)
    return found


def without(keyword, **fields):
    """A file that lacks an attribute."""
    ds = dcmread(io.BytesIO(image(**WINDOW, **fields)))
    del ds[keyword]
    return saved(ds)


def test_bits_above_those_stored_are_dropped():
    agrees(image(STORED | 0xF000, **WINDOW))


@pytest.mark.parametrize("signed", [False, True])
def test_values_are_moved_down_from_the_high_bit(signed):
    stored = RAMP.astype(np.int16) - 700 if signed else STORED
    ds = dataset((stored << 2).astype(stored.dtype), bits=14, HighBit=15)
    ds.WindowCenter, ds.WindowWidth = 0 if signed else 700, 1000
    agrees(saved(ds))


def table(first, entries, bits, packed):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = np.asarray(entries, packed).tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    return Sequence([item])


LOOKUP = np.clip((np.arange(1500) - 699.5) / 999 + 0.5, 0, 1)


@pytest.mark.parametrize(
    ("scale", "bits", "packed"), [(255, 8, "<u2"), (255, 8, "u1"), (4095, 12, "<u2")]
)
def test_the_width_of_a_lookup_table_follows_from_its_length(scale, bits, packed):
    entries = np.rint(LOOKUP * scale)
    found = read_radiograph(image(VOILUTSequence=table(0, entries, bits, packed)))
    np.testing.assert_allclose(found.pixels, PLAIN, atol=1 / scale)


def test_the_first_value_of_a_signed_images_table_may_be_negative():
    signed = (RAMP - 2000).astype(np.int16)
    voi = table(2**16 - 2000, np.rint(LOOKUP * 4095), 12, "<u2")
    agrees(image(signed, bits=16, VOILUTSequence=voi))


def test_padding_of_a_signed_image_is_signed_too():
    stored = (RAMP - 1000).astype(np.int16)
    stored[:, :20] = -3000
    ds = dataset(stored, bits=16)
    ds.add_new("PixelPaddingValue", "US", 2**16 - 3000)
    pixels = read_radiograph(saved(ds)).pixels
    assert pixels[:, :20].max() == 0
    assert np.median(pixels[:, 20:]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("window", [(128, 256), (32768, 65536)])
def test_a_window_of_another_depth_is_ignored_with_a_warning(window):
    stored = (STORED * 2.9).astype(np.uint16)
    found = read_radiograph(image(stored, WindowCenter=window[0], WindowWidth=window[1]))
    assert np.corrcoef(found.pixels.ravel(), RAMP.ravel())[0, 1] > 0.999
    assert any("window of the file does not fit" in text for text in found.warnings)


@pytest.mark.parametrize("keyword", ["PixelAspectRatio", "ImagerPixelSpacing"])
def test_pixels_become_square(keyword):
    tall = np.repeat(STORED, 2, axis=0)
    found = read_radiograph(image(tall, **WINDOW, **{keyword: [1, 2]}))
    np.testing.assert_allclose(found.pixels, PLAIN, atol=5e-3)


@pytest.mark.parametrize(
    ("fields", "keyword"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, "RescaleSlope"),
        ({"VOILUTSequence": Sequence([Dataset()])}, "VOILUTSequence"),
        ({"PixelPaddingValue": None}, "PixelPaddingValue"),
    ],
)
def test_an_optional_attribute_that_cannot_be_read_is_ignored_with_a_warning(fields, keyword):
    found = agrees(image(**WINDOW, **fields))
    assert any(text.startswith(keyword) for text in found.warnings)


def test_a_decimal_comma_in_a_window_is_read():
    ds = dcmread(io.BytesIO(image(WindowCenter="700.0", WindowWidth="1000.0")))
    data = saved(ds).replace(b"700.0", b"700,0").replace(b"1000.0", b"1000,0")
    assert agrees(data).warnings == ()


@pytest.mark.parametrize(
    "keyword", ["BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation"]
)
def test_what_follows_from_the_rest_may_be_missing(keyword):
    found = agrees(without(keyword))
    assert keyword == "HighBit" or any(keyword in text for text in found.warnings)


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated"])
def test_what_nothing_else_tells_is_named(keyword):
    with pytest.raises(RadiographError, match=f"does not state {keyword}"):
        read_radiograph(without(keyword))


def test_a_photometric_interpretation_in_lower_case_is_read():
    agrees(image(**WINDOW).replace(b"MONOCHROME2", b"monochrome2"))


def test_a_file_without_its_preamble_or_transfer_syntax_is_read():
    data = image(**WINDOW)
    assert agrees(data[132:]).warnings == ()
    ds = dcmread(io.BytesIO(data))
    del ds.file_meta.TransferSyntaxUID
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, ds, implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert any("TransferSyntaxUID" in text for text in agrees(stream.getvalue()).warnings)


def compressed(**options):
    """A baseline JPEG within a DICOM file."""
    grey = np.rint(PLAIN * 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=95, **options)
    ds = dataset(grey, bits=8, WindowCenter=128, WindowWidth=256)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    ds.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return saved(ds)


def test_compressed_pixels_that_lack_their_end_mark_are_read_and_a_cut_frame_is_named():
    data = compressed()
    ended = data.removesuffix(b"\xfe\xff\xdd\xe0\0\0\0\0")
    assert len(ended) < len(data)
    np.testing.assert_allclose(read_radiograph(ended).pixels, PLAIN, atol=0.03)
    with pytest.raises(RadiographError, match="cut short"):
        read_radiograph(ended[:-500])


def jpeg(**options):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 48)).astype(np.uint8)
    smooth = Image.fromarray(noise).resize((240, 200), Image.Resampling.BICUBIC)
    smooth.save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def test_a_jpeg_without_its_end_mark_is_whole_and_one_that_ends_early_is_not():
    data = jpeg()
    whole = read_radiograph(data).pixels
    np.testing.assert_array_equal(read_radiograph(data[:-2]).pixels, whole)
    for cut in (data[: len(data) * 3 // 4], jpeg(progressive=True)[:-2]):
        with pytest.raises(RadiographError, match="cut short"):
            read_radiograph(cut)


def test_the_age_follows_from_the_dates_where_it_is_not_stated():
    fields = {"PatientBirthDate": "19800615", "StudyDate": "20250614"}
    assert read_radiograph(image(**fields)).header["age"] == 44
    assert read_radiograph(image(**fields, PatientAge="051Y")).header["age"] == 51
    assert "age" not in read_radiograph(image(PatientBirthDate="19800615")).header
    early = {"PatientBirthDate": "20300615", "StudyDate": "20250614"}
    assert "age" not in read_radiograph(image(**early)).header


def png(pixels):
    import cv2

    return cv2.imencode(".png", pixels)[1].tobytes()


def test_one_defect_pixel_does_not_make_a_png_dark():
    deep = (STORED * 2).astype(np.uint16)
    right = read_radiograph(png(deep)).pixels
    deep[3, 5] = 65535
    found = read_radiograph(png(deep)).pixels
    assert np.abs(found - right).max(initial=0, where=deep < 60000) < 1e-6


def test_a_colour_png_of_sixteen_bits_keeps_all_of_them():
    deep = (STORED * 2).astype(np.uint16)
    alone, colour = read_radiograph(png(deep)), read_radiograph(png(np.dstack([deep] * 3)))
    np.testing.assert_allclose(colour.pixels, alone.pixels, atol=1e-3)
    assert colour.warnings == alone.warnings


def test_few_grey_levels_are_said():
    few = (PLAIN * 15).astype(np.uint8) * 17
    assert any("16 grey levels" in text for text in read_radiograph(png(few)).warnings)


@pytest.mark.parametrize(("levels", "is_said"), [(24, True), (25, False)])
def test_every_pixel_counts_where_those_far_apart_have_few_grey_levels(levels, is_said):
    image = np.zeros((256, 256), np.uint8)
    image[1, 1:levels] = np.arange(1, levels) * 10  # between the pixels that are looked at first
    said = any(f"{levels} grey levels" in text for text in read_radiograph(png(image)).warnings)
    assert said == is_said
