import hashlib
import os
import signal

import numpy as np
import pytest
from PIL import Image

from cxr_mm.data import cache
from cxr_mm.data.cache import build_cache, open_pixels
from cxr_mm.data.quality import QUALITY_NAMES, image_quality
from cxr_mm.data.radiograph import read_radiograph
from cxr_mm.data.transform import fit_square
from cxr_mm.errors import StageError


@pytest.fixture
def films(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.png" for name in "abcdef"]
    for path in paths:
        low = Image.fromarray(rng.integers(0, 255, (6, 8), dtype=np.uint8))
        low.resize((160, 200), Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture
def many_processes(monkeypatch):
    monkeypatch.setattr(cache, "WORTH_A_PROCESS", 1e-9)


def test_rows_hold_the_one_transform_of_each_film(films, tmp_path):
    rows = build_cache(films, tmp_path / "pixels.npy", 64)
    pixels = open_pixels(tmp_path / "pixels.npy")
    assert pixels.dtype == np.uint8
    assert pixels.shape == (6, 64, 64)
    for path, row in zip(films, rows, strict=True):
        film = read_radiograph(path)
        np.testing.assert_array_equal(pixels[row.pixel_row], fit_square(film.pixels, 64))
        assert row.quality == image_quality(film.pixels)
        assert tuple(row.quality) == QUALITY_NAMES
        assert row.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_equal_paths_share_a_row_and_bad_ones_leave_no_gap(films, tmp_path):
    bad = tmp_path / "text.png"
    bad.write_text("no film")
    paths = [films[0], bad, None, films[1], films[0], tmp_path / "none.png"]
    rows = build_cache(paths, tmp_path / "pixels.npy", 32)
    assert [row.pixel_row for row in rows] == [0, -1, -1, 1, 0, -1]
    assert [row.reason is None for row in rows] == [True, False, True, True, True, False]
    assert str(tmp_path) not in f"{rows[1].reason}{rows[5].reason}"
    assert len(open_pixels(tmp_path / "pixels.npy")) == 2


def test_processes_give_the_same_bytes(films, tmp_path, many_processes):
    alone = build_cache(films, tmp_path / "one.npy", 32, workers=1)
    together = build_cache(films, tmp_path / "two.npy", 32, workers=2)
    assert alone == together
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()


def test_perceptual_hash_survives_resizing_and_tells_films_apart(films, tmp_path):
    smaller = tmp_path / "smaller.jpg"
    Image.open(films[0]).resize((120, 150)).save(smaller, quality=80)
    rows = build_cache([*films, smaller], tmp_path / "pixels.npy", 32)
    bits = [bin(int(row.phash, 16) ^ int(rows[-1].phash, 16)).count("1") for row in rows]
    assert bits[0] <= 4
    assert min(bits[1:-1]) > 10
    assert rows[0].file_sha256 != rows[-1].file_sha256


def test_no_film_at_all_is_an_empty_cache(tmp_path):
    build_cache([None, None], tmp_path / "pixels.npy", 32)
    assert open_pixels(tmp_path / "pixels.npy").shape == (0, 32, 32)


def test_interrupted_build_leaves_nothing(films, tmp_path, monkeypatch):
    out = tmp_path / "out" / "pixels.npy"
    monkeypatch.setattr(cache, "fit_square", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_cache(films, out, 32)
    assert list(out.parent.iterdir()) == []


def _interrupt(pixels, size):
    raise KeyboardInterrupt


def test_killed_process_is_one_clear_error(films, tmp_path, many_processes, monkeypatch):
    monkeypatch.setattr(cache, "_decode", _die)
    with pytest.raises(StageError, match="killed"):
        build_cache(films, tmp_path / "out" / "pixels.npy", 32, workers=2)
    assert list((tmp_path / "out").iterdir()) == []


def _die(path, size):
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
