"""A DICOM file (PS3.10) → pixels and useful header fields; checked before it is decoded.

Names and identifiers are never read from the header.
"""

import atexit
import io
import logging
import re
import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.attributes import Attributes, code_string, stored_values
from cxr_mm.imaging.geometry import resize
from cxr_mm.imaging.image_header import MAX_PIXELS, declared_size
from cxr_mm.imaging.sandbox import Message, ProcessLimits, Worker, is_sandboxed
from cxr_mm.imaging.voi import Unwindowed, as_seen

OTHER = "other"
"""Replaces a value that is not a defined term of its attribute."""
Field = Literal["Modality", "ViewPosition", "BodyPartExamined"]

_TERMS: dict[Field, str] = {
    "Modality": """
        AR ASMT AU BDUS BI BMD CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO
        IOL IVOCT IVUS KER KO LEN LP LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA
        PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN
        RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC DR""",
    "ViewPosition": "AP PA LL RL RLD LLD RLO LLO L LAT LATERAL",
    "BodyPartExamined": """
        ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS
        CALCANEUS CAROTID CERVIX CHEST CHESTABDOMEN CHESTABDPELVIS CLAVICLE COCCYX COLON CSPINE
        CTSPINE EAR ELBOW ESOPHAGUS EXTREMITY EYE FACE FEMUR FIBULA FINGER FOOT FOREARM HAND HEAD
        HEADNECK HEART HIP HUMERUS ILIUM JAW KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG
        MAXILLA MEDIASTINUM NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELVIS NOSE ORBIT PANCREAS
        PATELLA PELVIS PHARYNX RADIUS RADIUSULNA RIB SACRUM SCAPULA SHOULDER SKULL SPINE SPLEEN
        SSPINE STERNUM STOMACH THIGH THORAX THUMB THYMUS THYROID TIBIA TIBIAFIBULA TLSPINE TOE
        TRACHEA TSPINE UTERUS WHOLEBODY WRIST""",
}
"""Defined terms, and DR, L, LAT, LATERAL and THORAX, which are not standard but common."""
TERMS = {field: frozenset(words.split()) for field, words in _TERMS.items()}


def display_text(field: Field, value: str) -> str:
    """A value as it may be shown: itself where it is one of the field's words, else `OTHER`."""
    return value if value in TERMS[field] else OTHER


Header = dict[str, str | float]
PREAMBLE = 128
WITHOUT_PREAMBLE = (
    b"DICM",
    b"\x02\x00\x00\x00UL",
    b"\x08\x00\x05\x00",
    b"\x08\x00\x08\x00",
    b"\x08\x00\x16\x00",
)
"""Starts of files that lack the preamble: the mark, the length of group 2, or the first element
that images have (SpecificCharacterSet, ImageType or SOPClassUID)."""
PROJECTION = ("CR", "DX", "DR", "RG")
"""Values of Modality (0008,0060) that plain radiographs have."""
CHEST = re.compile(r"CHEST|THORAX|LUNG|RIB", re.IGNORECASE)
YEARS_PER_UNIT = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
OLDEST = 130
"""Years beyond which dates of birth and study are a mistake."""
SQUARE_ENOUGH, MOST_STRETCHED = 0.02, 10
"""Sides of a pixel that differ by less count as equal; by more, as a mistake."""
MAX_INFLATED = 4 * MAX_PIXELS
"""Bytes that a deflated dataset may grow to."""
WITH_DECLARED_SIZE = {
    *JPEGTransferSyntaxes,
    *JPEGLSTransferSyntaxes,
    *JPEG2000TransferSyntaxes,
}
BY_GDCM_ALONE = {JPEGLossless, JPEGLosslessSV1, *JPEGLSTransferSyntaxes}
UNREADABLE = (
    BytesLengthException,
    InvalidDicomError,
    EOFError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom and its decoders raise on a damaged file."""

# pydicom warns about unusual headers by quoting them, which must not reach a log.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")


def is_dicom(data: bytes) -> bool:
    """Whether the bytes begin as a DICOM file does (PS3.10 7.1), or as one without its preamble."""
    return data[PREAMBLE : PREAMBLE + 4] == b"DICM" or data.startswith(WITHOUT_PREAMBLE)


def read_dicom(data: bytes, name: str) -> tuple[NDArray[np.float32], Unwindowed, Header, list[str]]:
    """Decode the first frame of a DICOM image.

    The file's VOI LUT or window is applied; without one the 0.1 and 99.9 percentiles of the
    image become black and white. Padding pixels are black.

    Args:
        data: the whole file.
        name: how errors call it.

    Returns:
        Pixels float32 (H, W) in [0, 1], MONOCHROME2; the values before the window; header (see
        `read_header`); warnings.

    Raises:
        RadiographError: damaged, no pixel data, too many pixels, or an encoding without a decoder.
    """
    try:
        attributes = _attributes(data, name)
        dataset = attributes.dataset
        _check_before_decoding(dataset, name)
        pixels, values = as_seen(attributes, _first_frame(dataset, data, name))
        pixels, values = _with_square_pixels(attributes, pixels, values)
        return pixels, values, read_header(dataset), [*_unusual(dataset), *attributes.warnings]
    except UNREADABLE as error:
        # Not chained: these messages may quote the header, names included.
        raise RadiographError(
            f"the DICOM file is damaged or incomplete ({type(error).__name__})",
            field=name,
            remedy="Export the file again from its archive",
        ) from None


def read_header(dataset: Dataset) -> Header:
    """Read the header fields that are useful and identify no one, if present.

    Keys: `view` (PA, AP, LL, …), `age` (years; from the dates of birth and study where it is not
    stated), `sex` (F, M or O), `dicom_modality`, `body_part`; a value that is not a defined term is
    `other`.
    """
    header: Header = {}
    if view := code_string(dataset, "ViewPosition") or _view_from_code(dataset):
        header["view"] = display_text("ViewPosition", view)
    if (age := _age(dataset)) is not None:
        header["age"] = age
    if (sex := code_string(dataset, "PatientSex")) in ("F", "M", "O"):
        header["sex"] = sex
    if modality := code_string(dataset, "Modality"):
        header["dicom_modality"] = display_text("Modality", modality)
    if part := code_string(dataset, "BodyPartExamined"):
        header["body_part"] = display_text("BodyPartExamined", part)
    return header


def _age(dataset: Dataset) -> float | None:
    """Years, as stated or else from the dates of birth and study."""
    if age := re.fullmatch(r"(\d{1,3})([DWMY])", code_string(dataset, "PatientAge")):
        return round(int(age[1]) * YEARS_PER_UNIT[age[2]], 3)
    dates = (str(dataset.get(name) or "") for name in ("PatientBirthDate", "StudyDate"))
    try:
        born, seen = (datetime.strptime(text, "%Y%m%d").date() for text in dates)
    except ValueError:
        return None
    years = seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day))
    return float(years) if 0 <= years <= OLDEST else None


def _attributes(data: bytes, name: str) -> Attributes:
    """Parse a file, and complete what decoding needs."""
    dataset = _parsed(data, name)
    if "PixelData" not in dataset and (completed := _with_delimiter(data, name)):
        dataset = _parsed(completed, name)
    _require_pixels(dataset, name)
    attributes = Attributes(dataset)
    attributes.complete(name)
    return attributes


def _parsed(data: bytes, name: str) -> Dataset:
    marked = data[PREAMBLE : PREAMBLE + 4] == b"DICM"
    stream = io.BytesIO(data)
    stream.seek(PREAMBLE + 4 if marked else 4 * data.startswith(b"DICM"))
    meta = read_dataset(
        stream,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag >> 16 != 2,
    )
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        inflate.decompress(stream.read(), MAX_INFLATED)
        if inflate.unconsumed_tail:
            raise too_large(f"more than {MAX_INFLATED:,} bytes once inflated", name)
    stream.seek(0 if marked else 4 * data.startswith(b"DICM"))
    return pydicom.dcmread(stream, force=True)


UNDEFINED = b"\xff\xff\xff\xff"
PIXEL_DATA = b"\xe0\x7f\x10\x00"
ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"


def _with_delimiter(data: bytes, name: str) -> bytes | None:
    """The file with the end of its compressed frames, which alone is missing; None if more is.

    Raises:
        RadiographError: the file ends within a frame.
    """
    start = max(data.rfind(PIXEL_DATA + vr + UNDEFINED) for vr in (b"OB\0\0", b"OW\0\0"))
    if start < 0:
        return None
    position = start + 12
    while data[position : position + 4] == ITEM:
        position += 8 + int.from_bytes(data[position + 4 : position + 8], "little")
    if position > len(data):
        raise _cut_short(name)
    return data[:position] + DELIMITER if position == len(data) else None


def _cut_short(name: str) -> RadiographError:
    return RadiographError(
        "the DICOM file is cut short: it ends within its pixels",
        field=name,
        remedy="Copy or export the file again",
    )


def _require_pixels(dataset: Dataset, name: str) -> None:
    if "PixelData" in dataset:
        return
    if not dataset:
        raise RadiographError(
            "the DICOM file has no readable attribute",
            field=name,
            remedy="Copy or export the file again",
        )
    kind = _known(UID(str(dataset.get("SOPClassUID") or "")))
    raise RadiographError(
        f"the DICOM file has no pixel data (SOP class: {kind})",
        field=name,
        remedy="Export the image itself, not a report or a presentation state",
    )


def _check_before_decoding(dataset: Dataset, name: str) -> None:
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if rows * columns * frames > MAX_PIXELS:
        raise too_large(f"{frames} frame(s) of {rows} × {columns} pixels", name)
    if dataset.file_meta.TransferSyntaxUID not in WITH_DECLARED_SIZE:
        return
    frame = get_frame(dataset.PixelData, 0, number_of_frames=frames)
    if declared_size(frame) != (rows, columns):
        raise RadiographError(
            f"the compressed frame does not hold the {rows} × {columns} pixels of the header",
            field=name,
            remedy="Export the file again from its archive",
        )


def _known(uid: UID) -> str:
    """Name of a UID that DICOM defines; other text from the file is not passed on."""
    return str(uid.name) if uid.name != uid else "not one of DICOM's"


def too_large(what: str, name: str) -> RadiographError:
    """The error for an image beyond a size limit."""
    return RadiographError(
        f"too large to be a radiograph: {what}",
        field=name,
        remedy=f"Give one image of at most {MAX_PIXELS // 1_000_000} megapixels",
    )


def _first_frame(dataset: Dataset, data: bytes, name: str) -> NDArray[Any]:
    """Stored values (H, W), or unsigned (H, W, 3) in colour."""
    syntax = dataset.file_meta.TransferSyntaxUID
    frame = None if syntax in BY_GDCM_ALONE else _decoded_in_process(dataset)
    if frame is None and syntax in WITH_DECLARED_SIZE:
        frame = _decoded_by_gdcm(data, name)
    if frame is None:
        raise RadiographError(
            f"its pixels ({_known(syntax)}) cannot be decoded",
            field=name,
            remedy="If other programs show the image, convert it first, as by `gdcmconv --raw`",
        )
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return np.asarray(apply_color_lut(frame, dataset))[..., :3]
    return stored_values(frame, dataset) if frame.ndim == 2 else frame


def _decoded_in_process(dataset: Dataset) -> NDArray[Any] | None:
    """By Pillow where the frame is JPEG or JPEG 2000, else by pydicom itself."""
    syntax = dataset.file_meta.TransferSyntaxUID
    by_pillow = syntax in WITH_DECLARED_SIZE
    try:
        if syntax == RLELossless and dataset.BitsAllocated == 1:
            return _one_bit_rle(dataset)
        return _cells(dataset, "pillow" if by_pillow else "")
    except (NotImplementedError, RuntimeError):
        return None


def _one_bit_rle(dataset: Dataset) -> NDArray[Any]:
    """Decode a frame of RLE with one bit for each pixel, which pydicom leaves out.

    Some writers give each pixel a byte, some pack eight into one as in native frames.
    """
    shape = int(dataset.Rows), int(dataset.Columns)
    number = shape[0] * shape[1]
    byte: dict[str, Any] = {"bits_allocated": 8, "bits_stored": 8}
    with suppress(RuntimeError):
        return _cells(dataset, **byte)
    packed = _cells(dataset, **byte, rows=1, columns=-(-number // 8))
    return np.unpackbits(packed, count=number, bitorder="little").reshape(shape)


def _cells(dataset: Dataset, decoder: str = "", **options: int) -> NDArray[Any]:
    """The first frame as decoded: bits outside BitsStored are left to `stored_values`.

    `options` go before what the header says.
    """
    if dataset.SamplesPerPixel == 1:
        options["correct_unused_bits"] = False
    return np.asarray(pixel_array(dataset, index=0, decoding_plugin=decoder, **options))


def decode_frame(request: Message) -> Message:
    """Decode the first frame of the file that a request has the bytes of; no array on failure.

    gdcm 3 ends its process on some damaged JPEG frames (a C++ exception crosses libjpeg).
    """
    try:
        dataset = _attributes(request.arrays[0].tobytes(), str(request.fields["name"])).dataset
        extended = dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit
        twelve = extended and dataset.SamplesPerPixel == 1 and dataset.BitsAllocated == 16
        return Message(arrays=(_twelve_bit_jpeg(dataset) if twelve else _cells(dataset),))
    except (RadiographError, *UNREADABLE):
        return Message()


def _twelve_bit_jpeg(dataset: Dataset) -> NDArray[np.uint16]:
    """Decode a frame of JPEG Extended by gdcm itself; pydicom leaves out those of 12 bits."""
    import gdcm

    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    frames = int(dataset.get("NumberOfFrames") or 1)
    fragment.SetByteStringValue(get_frame(dataset.PixelData, 0, number_of_frames=frames))
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((dataset.Columns, dataset.Rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    syntax = gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    cells = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), np.uint16)
    return cells.reshape(dataset.Rows, dataset.Columns)


GDCM = Worker(f"{__name__}:decode_frame", ProcessLimits(seconds=60))
atexit.register(GDCM.close)


def _decoded_by_gdcm(data: bytes, name: str) -> NDArray[Any] | None:
    """Decode in a sandboxed process: this one where it is, else one that is kept for it."""
    request = Message({"name": name}, (np.frombuffer(data, np.uint8),))
    if is_sandboxed():
        return _frame(decode_frame(request))
    try:
        return GDCM.call(request, _frame)
    except RadiographError:
        return None


def _frame(answer: Message) -> NDArray[Any] | None:
    return answer.arrays[0] if answer.arrays else None


def _with_square_pixels(
    attributes: Attributes, pixels: NDArray[np.float32], values: Unwindowed
) -> tuple[NDArray[np.float32], Unwindowed]:
    """Shrink the side whose pixels are closer together, where the file says that they differ."""
    ratio = height_over_width(attributes)
    if abs(ratio - 1) < SQUARE_ENOUGH or not 1 / MOST_STRETCHED < ratio < MOST_STRETCHED:
        return pixels, values
    height, width = pixels.shape
    shape = (round(height * ratio), width) if ratio < 1 else (height, round(width / ratio))
    padding = values.padding
    if padding is not None:
        padding = resize(padding.astype(np.float32), shape) > 0.5
    square = resize(values.values.astype(np.float32), shape)
    return np.clip(resize(pixels, shape), 0, 1), replace(values, values=square, padding=padding)


def height_over_width(attributes: Attributes) -> float:
    """Height of a pixel divided by its width (PS3.3 C.7.6.3.1.7, 10.7.1)."""
    for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        sides = attributes.numbers(keyword)
        if len(sides) == 2 and min(sides) > 0:
            return sides[0] / sides[1]
    return 1.0


def _unusual(dataset: Dataset) -> list[str]:
    """Warnings about the file for a person who reads the prediction."""
    result = []
    if (modality := code_string(dataset, "Modality")) not in PROJECTION:
        name = display_text("Modality", modality) if modality else "not stated"
        result.append(f"DICOM modality is {name}, not a plain radiograph's")
    part = code_string(dataset, "BodyPartExamined")
    if part and not CHEST.search(part):
        result.append(f"Body part is {display_text('BodyPartExamined', part)}, not the chest")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        result.append("The file has several frames; the first was read")
    if code_string(dataset, "PresentationIntentType") == "FOR PROCESSING":
        result.append("The image is raw (FOR PROCESSING), not the one meant for reading")
    return result


def _view_from_code(dataset: Dataset) -> str:
    """View position from View Code Sequence (CID 4010), which newer devices write instead."""
    items = dataset.get("ViewCodeSequence") or []
    meaning = str(items[0].get("CodeMeaning") or "").lower().replace("-", "") if items else ""
    names = {"posteroanterior": "PA", "anteroposterior": "AP", "left lateral": "LL"}
    names |= {"right lateral": "RL", "lateral": "LL"}
    return next((view for text, view in names.items() if text in meaning), "")
