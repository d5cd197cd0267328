"""Window: what a person looks at is in the image's own units, and says nothing of who it is."""

import io
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.radiograph import read_image, read_radiograph
from cxr_mm.imaging.voi import LONGEST, Unwindowed, viewable, windowed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

RAMP = np.add.outer(np.arange(160) * 4, np.arange(192) * 4).astype(np.uint16)  # 0 to 1,400
WINDOW = {"WindowCenter": 700, "WindowWidth": 1000}


def dataset(stored=RAMP, bits=12, **fields):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "DX", "CHEST", "PA"
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * stored.itemsize, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OB" if stored.itemsize == 1 else "OW"
    for name, value in fields.items():
        setattr(ds, name, value)
    return ds


def saved(ds):
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def look(stored=RAMP, bits=12, **fields):
    return read_image(saved(dataset(stored, bits, **fields)), "image.dcm").viewable


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def as_the_standard_has_it(x, centre, width):
    """The pseudo-code of PS3.3 C.11.2.1.2 for one value, with black 0 and white 255."""
    if x <= centre - 0.5 - (width - 1) / 2:
        return 0
    if x > centre - 0.5 + (width - 1) / 2:
        return 255
    return round(((x - (centre - 0.5)) / (width - 1) + 0.5) * 255)


@pytest.mark.parametrize(("centre", "width"), [(700, 1000), (10, 2), (1400, 1), (-50.5, 300.25)])
def test_a_window_is_the_standards_linear_one(centre, width):
    image = look(**WINDOW)
    shown = windowed(image, centre, width)
    assert shown.dtype == np.uint8
    expected = [as_the_standard_has_it(float(x), centre, width) for x in RAMP[0]]
    np.testing.assert_allclose(shown[0].astype(int), expected, atol=1)
    np.testing.assert_array_equal(windowed(image, centre, width, inverted=True), 255 - shown)


@pytest.mark.parametrize(
    ("stored", "bits"),
    [
        ((RAMP // 6).astype(np.uint8), 8),
        (RAMP, 12),
        (RAMP + 100, 16),
        ((RAMP.astype(np.int16) - 1024), 12),
    ],
)
def test_values_of_any_depth_are_those_after_rescale(stored, bits):
    image = look(stored, bits, RescaleSlope=2, RescaleIntercept=-100, **WINDOW)
    np.testing.assert_allclose(image.values, stored.astype(float) * 2 - 100)
    assert image.values.dtype == np.float32
    assert (image.low, image.high) == (image.values.min(), image.values.max())
    assert (image.centre, image.width, image.inverted) == (700, 1000, False)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [WINDOW, {}])
def test_what_the_file_says_is_what_the_model_sees_and_the_window_stated_shows_it(
    photometric, window
):
    data = saved(dataset(PhotometricInterpretation=photometric, **window))
    image = read_image(data)
    pixels = read_radiograph(data).pixels
    np.testing.assert_array_equal(image.radiograph.pixels, pixels)
    np.testing.assert_array_equal(image.viewable.seen, np.rint(pixels * 255))
    assert image.viewable.inverted == (photometric == "MONOCHROME1")
    stated = (image.viewable.centre, image.viewable.width, image.viewable.inverted)
    again = windowed(image.viewable, *stated).astype(int)
    np.testing.assert_allclose(again, image.viewable.seen, atol=1)


def test_a_lookup_table_is_shown_as_it_is_and_its_span_is_the_nearest_window():
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [1001, 200, 16], [v * v // 250 for v in range(1001)]
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    data = saved(dataset(VOILUTSequence=Sequence([item])))
    image = read_image(data).viewable
    np.testing.assert_array_equal(image.seen, np.rint(read_radiograph(data).pixels * 255))
    shown = windowed(image, image.centre, image.width)
    assert shown[RAMP == 200].max() == 0
    assert shown[RAMP == 1200].min() == 255
    assert shown[RAMP == 1196].max() < 255


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_through_the_window_stated(photometric):
    stored = RAMP + 500
    stored[:, :20] = 4000
    image = look(stored, PixelPaddingValue=4000, PhotometricInterpretation=photometric)
    assert image.high == 1900
    assert windowed(image, image.centre, image.width, image.inverted)[:, :20].max() == 0
    assert image.seen[:, :20].max() == 0


def test_the_first_of_several_frames_is_shown():
    both = np.stack([RAMP, RAMP * 0 + 7])
    image = look(RAMP, NumberOfFrames=2, PixelData=both.tobytes(), **WINDOW)
    np.testing.assert_array_equal(image.values, RAMP)


@pytest.mark.parametrize(
    ("pixels", "white"),
    [
        ((RAMP // 6).astype(np.uint8), 255),
        (RAMP, 4095),
        (RAMP * 40, 65535),
        (np.dstack([(RAMP // 6).astype(np.uint8)] * 3), 255),
    ],
)
def test_pictures_have_their_own_values_and_their_full_scale_for_a_window(pixels, white):
    # 11 bits are stored as 12.
    image = read_image(png(pixels)).viewable
    own = pixels if pixels.ndim == 2 else pixels[..., 0]
    np.testing.assert_allclose(image.values, own, rtol=1e-4)
    assert (image.centre, image.width, image.inverted) == ((white + 1) / 2, white + 1, False)
    shown = windowed(image, image.centre, image.width).astype(int)
    np.testing.assert_allclose(shown, own / white * 255, atol=0.51)


def test_a_large_image_is_shrunk_by_averaging_the_area():
    values = np.random.default_rng(0).integers(0, 4096, (2 * LONGEST, 600)).astype(np.uint16)
    pixels = values.astype(np.float32) / 4095
    image = viewable(Unwindowed(values, 2048, 4096), pixels)
    blocks = values.reshape(LONGEST, 2, 300, 2).mean((1, 3))
    np.testing.assert_allclose(image.values, blocks, rtol=1e-5)
    np.testing.assert_allclose(image.seen, blocks / 4095 * 255, atol=0.51)


def test_values_beyond_any_images_are_refused():
    with pytest.raises(RadiographError, match="damaged"):
        look(RescaleIntercept=0, RescaleSlope="1e39", **WINDOW)


@pytest.mark.parametrize("window", [("nan", "1000"), ("700", "nan"), ("inf", "10"), ("1", "inf")])
def test_a_window_that_is_no_number_counts_as_none(window):
    image = look(WindowCenter=window[0], WindowWidth=window[1])
    np.testing.assert_array_equal(image.seen, look().seen)


IDENTIFYING = {
    **dict.fromkeys(("PN", "LO", "SH", "LT", "ST", "UT", "UC", "UR", "AE"), "SECRET"),
    "DA": "19581231",
    "DT": "19581231",
    "TM": "195812",
}


def test_nothing_that_identifies_ever_comes_out():
    ds = dataset(PatientAge="063Y", PatientSex="F", ViewPosition="", Modality="OT", **WINDOW)
    ds.BodyPartExamined = "KNEE"
    secret = [
        (tag, vr)
        for tag, (vr, *_) in DicomDictionary.items()
        if vr in IDENTIFYING and tag >> 16 > 2
    ]
    view = Dataset()
    for tag, vr in secret:
        ds.add_new(tag, vr, IDENTIFYING[vr])
        view.add_new(tag, vr, IDENTIFYING[vr])
    view.CodeMeaning = "SECRET postero-anterior"
    ds.ViewCodeSequence, ds.OtherPatientIDsSequence = Sequence([view]), Sequence([view])
    image = read_image(saved(ds), "image.dcm")
    message = repr(asdict(image))
    assert len(secret) > 900
    assert "KNEE" in message
    for word in ("SECRET", "1958"):
        assert word.lower() not in message.lower()
    assert image.radiograph.header == {
        "age": 63.0,
        "sex": "F",
        "dicom_modality": "OT",
        "body_part": "KNEE",
    }
    assert image.radiograph.view == "PA"
