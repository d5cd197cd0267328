import io
import os
import signal
import struct
import zlib

import gdcm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging import dicom
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.imaging.sandbox import ProcessLimits

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

ROWS, COLUMNS = 160, 192
RAMP = np.add.outer(np.arange(ROWS) * 4, np.arange(COLUMNS) * 4)  # 0 to 1,400
STORED = RAMP.astype(np.uint16)


def dataset(stored, bits=12, syntax=ExplicitVRLittleEndian, **fields):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "DX", "CHEST", "PA"
    ds.PatientName, ds.PatientID = "Secret^Name", "SECRET-ID"
    ds.Rows, ds.Columns = stored.shape[-2:] if stored.ndim < 3 else stored.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.BitsAllocated = 8 if bits <= 8 else 16
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    letter = ("i" if ds.PixelRepresentation else "u") + str(ds.BitsAllocated // 8)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    ds.PixelData = stored.astype(order + letter).tobytes()
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    for name, value in fields.items():
        setattr(ds, name, value)
    return ds


def saved(ds):
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def image(stored=STORED, **kwargs):
    return saved(dataset(stored, **kwargs))


def gdcm_encoded(data, syntax, folder):
    plain, packed = folder / "plain.dcm", folder / "packed.dcm"
    plain.write_bytes(data)
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(plain))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(packed))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutputAsPixmap())
    assert writer.Write()
    return packed.read_bytes()


def windowed(values, centre, width):
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


WINDOW = {"WindowCenter": 700, "WindowWidth": 1000}
SEEN = windowed(RAMP, 700, 1000)


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_native_encodings_are_windowed(syntax):
    radiograph = read_radiograph(image(syntax=syntax, **WINDOW), "image.dcm")
    assert radiograph.pixels.dtype == np.float32
    np.testing.assert_allclose(radiograph.pixels, SEEN, atol=1e-6)
    assert radiograph.warnings == ()


@pytest.mark.parametrize(
    "syntax",
    [
        gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        gdcm.TransferSyntax.JPEGLSLossless,
        gdcm.TransferSyntax.JPEG2000Lossless,
        gdcm.TransferSyntax.RLELossless,
    ],
)
def test_lossless_compressions_give_the_same_pixels(syntax, tmp_path):
    data = gdcm_encoded(image(**WINDOW), syntax, tmp_path)
    assert dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_allclose(read_radiograph(data).pixels, SEEN, atol=1e-6)


def test_signed_jpeg_2000(tmp_path):
    plain = image((RAMP - 1024).astype(np.int16), WindowCenter=-324, WindowWidth=1000)
    data = gdcm_encoded(plain, gdcm.TransferSyntax.JPEG2000Lossless, tmp_path)
    np.testing.assert_allclose(read_radiograph(data).pixels, SEEN, atol=1e-6)


@pytest.mark.parametrize(
    "syntax", [gdcm.TransferSyntax.JPEGBaselineProcess1, gdcm.TransferSyntax.JPEG2000]
)
def test_lossy_compressions_are_close(syntax, tmp_path):
    stored = (RAMP / 6).astype(np.uint8)
    plain = image(stored, bits=8, WindowCenter=128, WindowWidth=256)
    pixels = read_radiograph(gdcm_encoded(plain, syntax, tmp_path)).pixels
    assert np.abs(pixels - stored / 255).max() < 0.03


def test_monochrome1_is_inverted_after_the_window():
    data = image(PhotometricInterpretation="MONOCHROME1", **WINDOW)
    np.testing.assert_allclose(read_radiograph(data).pixels, 1 - SEEN, atol=1e-6)


def test_inverse_presentation_never_inverts_twice():
    both = image(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE", **WINDOW)
    alone = image(PresentationLUTShape="INVERSE", **WINDOW)
    np.testing.assert_allclose(read_radiograph(both).pixels, 1 - SEEN, atol=1e-6)
    np.testing.assert_allclose(read_radiograph(alone).pixels, 1 - SEEN, atol=1e-6)


def test_negative_rescale_slope_turns_the_image_over_once():
    data = image(RescaleSlope=-1, RescaleIntercept=1400, WindowCenter=700, WindowWidth=1401)
    np.testing.assert_allclose(
        read_radiograph(data).pixels, windowed(1400 - RAMP, 700, 1401), atol=1e-6
    )


def test_window_is_in_rescaled_units():
    data = image(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=400, WindowWidth=2000)
    np.testing.assert_allclose(
        read_radiograph(data).pixels, windowed(RAMP * 2.0 - 1000, 400, 2000), atol=1e-6
    )


def test_signed_values():
    data = image((RAMP - 1024).astype(np.int16), WindowCenter=-324, WindowWidth=1000)
    np.testing.assert_allclose(read_radiograph(data).pixels, SEEN, atol=1e-6)


def test_sixteen_bits():
    data = image((RAMP * 40).astype(np.uint16), bits=16, WindowCenter=28000, WindowWidth=40000)
    np.testing.assert_allclose(
        read_radiograph(data).pixels, windowed(RAMP * 40.0, 28000, 40000), atol=1e-5
    )


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR_EXACT", np.clip((RAMP - 700) / 1000 + 0.5, 0, 1)),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (RAMP - 700) / 1000))),
    ],
)
def test_voi_lut_functions(function, expected):
    pixels = read_radiograph(image(VOILUTFunction=function, **WINDOW)).pixels
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_first_of_several_windows():
    data = image(WindowCenter=[700, 10], WindowWidth=[1000, 20])
    np.testing.assert_allclose(read_radiograph(data).pixels, SEEN, atol=1e-6)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 700, "WindowWidth": 0}])
def test_without_a_window_the_image_fills_the_range(window):
    pixels = read_radiograph(image((RAMP + 2000).astype(np.uint16), **window)).pixels
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert np.median(pixels) == pytest.approx(0.5, abs=0.02)


def test_voi_lut_goes_before_the_window_and_states_its_own_white():
    item = Dataset()
    table = np.sqrt(np.linspace(0, 1, 1401)) * 4095  # 12 bits in a table said to have 16
    item.LUTDescriptor = [1401, 0, 16]
    item.LUTData = [int(v) for v in table]
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    data = image(VOILUTSequence=Sequence([item]), WindowCenter=10, WindowWidth=20)
    np.testing.assert_allclose(
        read_radiograph(data).pixels, np.floor(table)[RAMP] / 4095, atol=1e-6
    )


def test_modality_lut_is_applied():
    item = Dataset()
    item.LUTDescriptor = [1401, 0, 16]
    item.LUTData = [1400 - v for v in range(1401)]
    item.ModalityLUTType = "US"
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    data = image(ModalityLUTSequence=Sequence([item]), WindowCenter=700, WindowWidth=1401)
    np.testing.assert_allclose(
        read_radiograph(data).pixels, windowed(1400 - RAMP, 700, 1401), atol=1e-6
    )


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_stretch_the_range(photometric):
    stored = (RAMP + 500).astype(np.uint16)
    stored[:, :20] = 4000
    data = image(stored, PixelPaddingValue=4000, PhotometricInterpretation=photometric)
    pixels = read_radiograph(data).pixels
    assert pixels[:, :20].max() == 0
    assert np.median(pixels[:, 20:]) == pytest.approx(0.5, abs=0.05)


def test_first_frame_of_several_with_a_warning():
    stored = np.stack([RAMP, RAMP * 0]).astype(np.uint16)
    ds = dataset(stored[0], NumberOfFrames=2, **WINDOW)
    ds.PixelData = stored.tobytes()
    radiograph = read_radiograph(saved(ds))
    np.testing.assert_allclose(radiograph.pixels, SEEN, atol=1e-6)
    assert any("several frames" in text for text in radiograph.warnings)


def test_colour_becomes_luminance():
    grey = (RAMP / 6).astype(np.uint8)
    rgb = np.stack([grey] * 3, axis=-1)
    ds = dataset(grey, bits=8, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    ds.PlanarConfiguration, ds.PixelData = 0, rgb.tobytes()
    radiograph = read_radiograph(saved(ds))
    np.testing.assert_allclose(radiograph.pixels, grey / 255, atol=1e-5)
    assert radiograph.warnings == ()


def test_header_has_what_helps_and_nothing_that_identifies():
    data = image(PatientAge="018M", PatientSex="F", ViewPosition="", PatientBirthDate="20200101")
    ds = dcmread(io.BytesIO(data))
    view = Dataset()
    view.CodeMeaning = "antero-posterior"
    ds.ViewCodeSequence = Sequence([view])
    radiograph = read_radiograph(saved(ds))
    assert radiograph.view == "AP"
    assert radiograph.header == {
        "age": 1.5,
        "sex": "F",
        "dicom_modality": "DX",
        "body_part": "CHEST",
    }


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"ViewPosition": "LL"}, "lateral"),
        ({"Modality": "CT"}, "CT"),
        ({"BodyPartExamined": "KNEE"}, "KNEE"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "FOR PROCESSING"),
        ({"WindowCenter": 60000, "WindowWidth": 2}, "window of the file does not fit"),
    ],
)
def test_what_is_unusual_is_said(fields, text):
    assert any(text in warning for warning in read_radiograph(image(**fields)).warnings)


def test_a_name_typed_into_a_code_is_shown_nowhere():
    typed = dict.fromkeys(("ViewPosition", "BodyPartExamined", "Modality"), "MILLER")
    found = read_radiograph(image(**typed))
    assert "MILLER" not in f"{found.view} {found.header} {found.warnings}"
    assert (found.view, found.header["body_part"]) == ("other", "other")
    assert found.header["dicom_modality"] == "other"
    assert any("Body part is other" in warning for warning in found.warnings)


def test_no_pixel_data_names_the_kind_of_object():
    ds = dataset(STORED)
    del ds.PixelData
    with pytest.raises(RadiographError, match=r"^report\.dcm: .*no pixel data.*Computed"):
        read_radiograph(saved(ds), "report.dcm")


@pytest.mark.parametrize("fields", [{"Rows": 30_000, "Columns": 30_000}, {"NumberOfFrames": 9999}])
def test_size_is_refused_before_decoding(fields):
    with pytest.raises(RadiographError, match="too large"):
        read_radiograph(image(**fields))


def test_compressed_frame_of_another_size_is_refused_before_decoding(tmp_path):
    data = gdcm_encoded(image(), gdcm.TransferSyntax.JPEG2000Lossless, tmp_path)
    at = data.index(b"\xff\x4f\xff\x51") + 8
    bomb = data[:at] + struct.pack(">II", 60_000, 60_000) + data[at + 8 :]
    with pytest.raises(RadiographError, match="does not hold"):
        read_radiograph(bomb)


def test_deflated_bomb_is_refused(monkeypatch):
    data = image(syntax=DeflatedExplicitVRLittleEndian)
    meta_end = 144 + struct.unpack_from("<I", data, 140)[0]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = squeeze.compress(bytes(3_000_000)) + squeeze.flush()
    monkeypatch.setattr(dicom, "MAX_INFLATED", 1_000_000)
    with pytest.raises(RadiographError, match="too large"):
        read_radiograph(data[:meta_end] + body)


def test_precision_that_ends_the_decoders_process_is_refused(tmp_path):
    data = gdcm_encoded(image(), gdcm.TransferSyntax.JPEGLSLossless, tmp_path)
    at = data.index(b"\xff\xf7") + 4
    assert data[at] in (12, 16)
    with pytest.raises(RadiographError, match="does not hold"):
        read_radiograph(data[:at] + b"\x6c" + data[at + 1 :])


def test_a_decoder_that_ends_its_process_does_not_end_ours(tmp_path, monkeypatch):
    data = gdcm_encoded(image(**WINDOW), gdcm.TransferSyntax.JPEGLosslessProcess14_1, tmp_path)
    gdcm_worker = dicom.GDCM
    first = gdcm_worker._running("image.dcm")
    first.kill()
    first.wait()
    np.testing.assert_allclose(read_radiograph(data).pixels, SEEN, atol=1e-6)
    os.kill(gdcm_worker._running("image.dcm").pid, signal.SIGSTOP)
    monkeypatch.setattr(gdcm_worker, "_limits", ProcessLimits(seconds=0.2))
    with pytest.raises(RadiographError, match="cannot be decoded"):
        read_radiograph(data, "slow.dcm")
    monkeypatch.undo()
    np.testing.assert_allclose(read_radiograph(data).pixels, SEEN, atol=1e-6)


def test_garbage_in_a_compressed_frame_is_one_clear_line():
    ds = dataset(STORED, syntax=JPEG2000Lossless)
    ds.PixelData = encapsulate([b"\x00\x01" * 400])
    with pytest.raises(RadiographError, match="does not hold") as caught:
        read_radiograph(saved(ds), "x.dcm")
    assert "\n" not in str(caught.value)


def test_cut_short_is_refused():
    data = image()
    with pytest.raises(RadiographError):
        read_radiograph(data[: len(data) - 10_000], "cut.dcm")


def test_errors_and_their_chain_never_quote_the_header():
    ds = dataset(STORED)
    ds.add_new("Rows", "LO", "SECRET")
    with pytest.raises(RadiographError, match="does not state Rows") as caught:
        read_radiograph(saved(ds), "image.dcm")
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_rle_by_pydicom():
    ds = dataset(STORED, **WINDOW)
    ds.compress(RLELossless)
    np.testing.assert_allclose(read_radiograph(saved(ds)).pixels, SEEN, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_rle_of_one_bit(packed):
    bits = (RAMP[:, :-3] > 700).astype(np.uint8)  # whose rows end within a byte
    cells = np.packbits(bits, bitorder="little")[None] if packed else bits
    ds = dataset(cells, bits=8)
    ds.compress(RLELossless)
    ds.Rows, ds.Columns = bits.shape
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = 0
    np.testing.assert_array_equal(read_radiograph(saved(ds)).pixels, bits)


WHOLE = image(PatientAge="063Y", **WINDOW)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(132, 1200), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_gives_a_image_or_a_radiograph_error(changes):
    data = bytearray(WHOLE)
    for at, value in changes:
        data[at] = value
    try:
        pixels = read_radiograph(bytes(data)).pixels
    except RadiographError:
        return
    assert np.isfinite(pixels).all()
    assert 0 <= pixels.min() <= pixels.max() <= 1
