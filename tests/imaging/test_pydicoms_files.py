"""The files that pydicom's wheel ships: each is read or refused with a typed error, and what DCMTK
shows of them is what is read."""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom import dcmread
from pydicom.uid import JPEGExtended12Bit

from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.radiograph import read_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
DATA = Path(pydicom.__file__).parent / "data"
FOLDERS = ("test_files", "charset_files")
FILES = sorted(p for folder in FOLDERS for p in (DATA / folder).rglob("*") if p.is_file())
TWELVE_BITS = DATA / "test_files" / "JPEG-lossy.dcm"
LUMINANCE = np.array([0.114, 0.587, 0.299])
"""Of blue, green, red (ITU-R BT.601)."""
needs_dcmtk = pytest.mark.skipif(shutil.which("dcmj2pnm") is None, reason="DCMTK is not installed")


def read(path):
    """The image, or None where it is refused."""
    with suppress(RadiographError):
        return read_image(path, path.name)
    return None


def test_every_file_is_read_or_refused_and_most_images_are_read():
    found = [read(path) for path in FILES]
    assert len(FILES) > 190
    assert sum(image is not None for image in found) >= 89


def shown_by_dcmtk(path, image, folder):
    """Grey values (H, W) as DCMTK shows the first frame through the same window; None if it cannot.

    Overlays are left out, and 16 bits written, so that few grey levels count too.
    """
    header = dcmread(path, stop_before_pixels=True, force=True)
    ignored = any("does not fit" in text for text in image.radiograph.warnings)
    window = ["+Ww", str(image.viewable.centre), str(image.viewable.width)]
    if header.get("WindowWidth") is not None and not ignored:
        window = ["+Wi", "1"]
    shown = folder / "shown.png"
    command = ["dcmj2pnm", "+on2", "--no-overlays", *window, path, shown]
    subprocess.run(command, check=False, capture_output=True)
    pixels = cv2.imread(str(shown), cv2.IMREAD_UNCHANGED) if shown.is_file() else None
    return pixels @ LUMINANCE if pixels is not None and pixels.ndim == 3 else pixels


@needs_dcmtk
def test_what_dcmtk_shows_is_what_is_read(tmp_path):
    compared = {}
    for path in FILES:
        image = read(path)
        if image is None:
            continue
        (tmp_path / "shown.png").unlink(missing_ok=True)
        theirs = shown_by_dcmtk(path, image, tmp_path)
        if theirs is not None:
            ours = image.radiograph.pixels.ravel()
            compared[path.name] = np.corrcoef(ours, theirs.ravel())[0, 1]
    assert len(compared) >= 70
    assert {name: r for name, r in compared.items() if not r >= 0.999} == {}


@needs_dcmtk
def test_jpeg_of_twelve_bits_has_the_values_that_dcmtk_decodes(tmp_path):
    header = dcmread(TWELVE_BITS, stop_before_pixels=True)
    assert (header.file_meta.TransferSyntaxUID, header.BitsStored) == (JPEGExtended12Bit, 12)
    subprocess.run(["dcmdjpeg", TWELVE_BITS, tmp_path / "plain.dcm"], check=True)
    ours, theirs = (read_image(path) for path in (TWELVE_BITS, tmp_path / "plain.dcm"))
    np.testing.assert_array_equal(ours.viewable.values, theirs.viewable.values)
