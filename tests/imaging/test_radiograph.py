import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging import radiograph
from cxr_mm.imaging.radiograph import read_radiograph

ROWS, COLUMNS = 160, 192
GREY = (np.add.outer(np.arange(ROWS), np.arange(COLUMNS)) * 255 / 350).astype(np.uint8)


def encoded(pixels, form="PNG", mode=None, **options):
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, form, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(rows, columns):
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_png_in_every_mode_gives_the_same_image(mode):
    image = read_radiograph(encoded(GREY, mode=mode))
    assert image.pixels.dtype == np.float32
    assert image.pixels.shape == (ROWS, COLUMNS)
    np.testing.assert_allclose(image.pixels, GREY / 255, atol=1e-6)
    assert (image.view, image.header, image.warnings) == (None, {}, ())


def test_jpeg_is_close():
    image = read_radiograph(encoded(GREY, "JPEG", quality=95))
    assert np.abs(image.pixels - GREY / 255).max() < 0.03


@pytest.mark.parametrize("bits", [12, 16])
def test_sixteen_bit_png_is_scaled_by_the_bits_it_uses(bits):
    white = 2**bits - 1
    stored = np.rint(GREY / 255 * white).astype(np.uint16)
    stored[0, 0] = white
    image = read_radiograph(encoded(stored))
    np.testing.assert_allclose(image.pixels, stored / white, atol=1e-6)


def test_what_is_transparent_is_black():
    alpha = np.full_like(GREY, 255)
    alpha[:, :50] = 0
    image = read_radiograph(encoded(np.stack([GREY, GREY, GREY, alpha], axis=-1)))
    assert image.pixels[:, :50].max() == 0
    np.testing.assert_allclose(image.pixels[:, 50:], GREY[:, 50:] / 255, atol=1e-6)


def test_exif_orientation_is_honoured():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read_radiograph(encoded(GREY, "PNG", exif=exif))
    np.testing.assert_allclose(image.pixels, np.rot90(GREY, -1) / 255, atol=1e-6)


def test_kind_is_told_by_content_not_by_name(tmp_path):
    path = tmp_path / "image.dcm"
    path.write_bytes(encoded(GREY))
    assert read_radiograph(path).pixels.shape == (ROWS, COLUMNS)


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (np.dstack([GREY, GREY // 4, 255 - GREY]), "coloured"),
        (np.full_like(GREY, 120), "almost blank"),
        (GREY[:40, :40] * 3, "small: 40 × 40"),
    ],
)
def test_what_is_unusual_is_said(pixels, text):
    assert any(text in warning for warning in read_radiograph(encoded(pixels)).warnings)


def test_swapped_black_and_white_is_said():
    dark_air = np.zeros((200, 200), np.uint8)
    dark_air[40:, 50:150] = np.linspace(180, 220, 100)
    assert read_radiograph(encoded(dark_air)).warnings == ()
    assert "Black and white may be swapped" in read_radiograph(encoded(255 - dark_air)).warnings


NOISE = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
JPEG = encoded(NOISE, "JPEG")
PNG = encoded(NOISE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"this is a text file, whatever its name says\n" * 20, "neither a PNG, a JPEG nor"),
        (encoded(GREY, "GIF"), "neither a PNG, a JPEG nor"),
        (JPEG[: len(JPEG) // 2], "damaged or cut short"),
        (JPEG[:200], "damaged or cut short"),
        (PNG[: len(PNG) // 2], "damaged or cut short"),
        (PNG[:20], "damaged or cut short"),
        (PNG[:60] + bytes(40) + PNG[100:], "damaged or cut short"),
        (png_of_size(30_000, 30_000), "too large to be a radiograph: 30000 × 30000"),
        (png_of_size(7_100, 7_100), "too large"),
        (encoded(GREY[:10, :10]), "too few"),
    ],
)
def test_bad_files_give_one_line_with_name_and_remedy(data, message):
    with pytest.raises(RadiographError, match=message) as caught:
        read_radiograph(data, "image.png")
    assert str(caught.value).startswith("image.png: ")
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_huge_png_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("was opened"))
    with pytest.raises(RadiographError, match="too large"):
        read_radiograph(png_of_size(30_000, 30_000))


def test_size_that_only_pillow_sees_is_checked_too(monkeypatch):
    monkeypatch.setattr(radiograph, "declared_size", lambda _: None)
    for rows in (8_000, 12_000, 30_000):
        with pytest.raises(RadiographError):
            read_radiograph(png_of_size(rows, rows))


def test_missing_path_folder_and_large_file(tmp_path, monkeypatch):
    with pytest.raises(RadiographError, match="no such file"):
        read_radiograph(tmp_path / "none.png")
    with pytest.raises(RadiographError, match="a folder, not a file"):
        read_radiograph(tmp_path)
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    monkeypatch.setattr(radiograph, "MAX_BYTES", 1000)
    with pytest.raises(RadiographError, match="too large"):
        read_radiograph(path)


def test_text_of_a_png_that_inflates_without_end_is_refused():
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(90_000_000)))
    at = PNG.index(b"IDAT") - 4
    with pytest.raises(RadiographError, match="damaged"):
        read_radiograph(PNG[:at] + bomb + PNG[at:])


def test_threads_do_not_disturb_one_another_or_pillow():
    files = [encoded(GREY), encoded(255 - GREY), JPEG, JPEG[:3000]] * 10
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(_outcome, files))
    assert results == [_outcome(data) for data in files]
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def _outcome(data):
    try:
        return read_radiograph(data).pixels.tobytes()
    except RadiographError as error:
        return str(error)


@pytest.mark.parametrize(
    "pattern", ["chest_xray/test/NORMAL/*", "nih-chest-xray14/images/*", "covid*/images/*"]
)
def test_real_images_are_read_without_a_word(data_root, pattern):
    for path in sorted(data_root.glob(pattern))[:25]:
        image = read_radiograph(path)
        assert image.warnings == ()
        assert 0 <= image.pixels.min() < image.pixels.max() <= 1
