import hashlib
import os
import signal

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from cxr_mm.core.errors import InputError, StageError
from cxr_mm.core.shards import work
from cxr_mm.data import pixel_cache
from cxr_mm.data.pixel_cache import build_cache, open_pixels
from cxr_mm.imaging.burnt_in_text import without_text
from cxr_mm.imaging.geometry import fit_square
from cxr_mm.imaging.quality import QUALITY_NAMES, image_quality
from cxr_mm.imaging.radiograph import read_radiograph


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.png" for name in "abcdef"]
    for path in paths:
        low = Image.fromarray(rng.integers(0, 255, (6, 8), dtype=np.uint8))
        low.resize((160, 200), Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture
def many_processes(monkeypatch):
    monkeypatch.setattr(pixel_cache, "WORTH_A_PROCESS", 1e-9)


def test_rows_hold_the_one_transform_of_each_image(images, tmp_path):
    rows = build_cache(images, tmp_path / "pixels.npy", 64)
    pixels = open_pixels(tmp_path / "pixels.npy")
    assert pixels.dtype == np.uint8
    assert pixels.shape == (6, 64, 64)
    for path, row in zip(images, rows, strict=True):
        image = read_radiograph(path)
        np.testing.assert_array_equal(pixels[row.pixel_row], fit_square(image.pixels, 64))
        assert row.quality == image_quality(image.pixels)
        assert tuple(row.quality) == QUALITY_NAMES
        assert row.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_equal_paths_share_a_row_and_bad_ones_leave_no_gap(images, tmp_path):
    bad = tmp_path / "text.png"
    bad.write_text("no image")
    paths = [images[0], bad, None, images[1], images[0], tmp_path / "none.png"]
    rows = build_cache(paths, tmp_path / "pixels.npy", 32)
    assert [row.pixel_row for row in rows] == [0, -1, -1, 1, 0, -1]
    assert [row.reason is None for row in rows] == [True, False, True, True, True, False]
    assert str(tmp_path) not in f"{rows[1].reason}{rows[5].reason}"
    assert len(open_pixels(tmp_path / "pixels.npy")) == 2


def test_processes_give_the_same_bytes(images, tmp_path, many_processes):
    alone = build_cache(images, tmp_path / "one.npy", 32, workers=1)
    together = build_cache(images, tmp_path / "two.npy", 32, workers=2)
    assert alone == together
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()


def test_perceptual_hash_survives_resizing_and_tells_images_apart(images, tmp_path):
    smaller = tmp_path / "smaller.jpg"
    Image.open(images[0]).resize((120, 150)).save(smaller, quality=80)
    rows = build_cache([*images, smaller], tmp_path / "pixels.npy", 32)
    bits = [bin(int(row.phash, 16) ^ int(rows[-1].phash, 16)).count("1") for row in rows]
    assert bits[0] <= 4
    assert min(bits[1:-1]) > 10
    assert rows[0].file_sha256 != rows[-1].file_sha256


def test_burnt_in_text_is_masked_where_that_is_asked_for(images, tmp_path):
    burnt = Image.open(images[0]).convert("L").resize((300, 300))
    font = ImageFont.load_default(16)
    ImageDraw.Draw(burnt).text((20, 20), "PORTABLE", fill=255, font=font)
    burnt.save(tmp_path / "burnt.png")
    pixels = read_radiograph(tmp_path / "burnt.png").pixels
    for mask_text, seen in ((True, without_text(pixels)), (False, pixels)):
        out = tmp_path / f"{mask_text}.npy"
        (row,) = build_cache([tmp_path / "burnt.png"], out, 64, mask_text=mask_text)
        assert row.text
        np.testing.assert_array_equal(open_pixels(out)[0], fit_square(seen, 64))


def test_no_image_at_all_is_an_empty_cache(tmp_path):
    build_cache([None, None], tmp_path / "pixels.npy", 32)
    assert open_pixels(tmp_path / "pixels.npy").shape == (0, 32, 32)


def test_interrupted_build_leaves_nothing(images, tmp_path, monkeypatch):
    out = tmp_path / "out" / "pixels.npy"
    monkeypatch.setattr(pixel_cache, "model_square", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_cache(images, out, 32)
    assert list(out.parent.iterdir()) == []


def _interrupt(pixels, size, mask_text):
    raise KeyboardInterrupt


def test_killed_process_is_one_clear_error(images, tmp_path, many_processes, monkeypatch):
    monkeypatch.setattr(pixel_cache, "_decode", _die)
    with pytest.raises(StageError, match="killed"):
        build_cache(images, tmp_path / "out" / "pixels.npy", 32, workers=2)
    assert list((tmp_path / "out").iterdir()) == []


def _die(path, size, mask_text):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("content", [None, b"no array", b""])
def test_open_pixels_asks_for_ingest(tmp_path, content):
    path = tmp_path / "pixels.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StageError, match="ingest"):
        open_pixels(path)


def test_open_pixels_refuses_another_array(tmp_path):
    np.save(tmp_path / "pixels.npy", np.zeros((2, 3)))
    with pytest.raises(StageError, match="not a pixel cache"):
        open_pixels(tmp_path / "pixels.npy")


def test_a_killed_run_decodes_the_images_that_are_missing_alone(images, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "WORTH_KEEPING", len(images))
    monkeypatch.setattr(pixel_cache, "IMAGES", 2)
    real, asked = pixel_cache.read_bytes, []

    def counting(path, killed=True):
        asked.append(path)
        if killed and path == images[4]:
            raise KeyboardInterrupt
        return real(path)

    expected = build_cache(images, tmp_path / "whole.npy", 32)
    monkeypatch.setattr(pixel_cache, "read_bytes", counting)
    out, parts = tmp_path / "pixels.npy", tmp_path / ".parts"
    with pytest.raises(KeyboardInterrupt):
        build_cache(images, out, 32, parts=parts)
    assert asked == images[:5]
    asked.clear()
    monkeypatch.setattr(pixel_cache, "read_bytes", lambda path: counting(path, killed=False))
    assert build_cache(images, out, 32, parts=parts) == expected
    assert asked == images[4:]
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not parts.exists()


def test_an_object_is_decoded_as_its_file_and_a_store_that_is_away_ends_the_run(
    images, tmp_path, s3
):
    import fsspec

    fsspec.filesystem("s3").put_file(images[0], "radiographs/a.png")
    urls = ["s3://radiographs/a.png", "s3://radiographs/none.png"]
    (file,) = build_cache(images[:1], tmp_path / "one.npy", 32)
    there, lost = build_cache(urls, tmp_path / "two.npy", 32)
    assert there == file
    assert lost.reason == "no such object"
    assert (tmp_path / "two.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()
    with pytest.raises(InputError, match=r"pip install 'cxr-mm\[gcs\]'"):
        build_cache(["gs://bucket/a.png"], tmp_path / "three.npy", 32)
    assert not (tmp_path / "three.npy").exists()
