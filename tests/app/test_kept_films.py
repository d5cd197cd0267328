"""Kept images: decoded once for whoever handed them in, kept for no one else and not for long."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from app.upload_cache import UploadCache, read_for
from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.radiograph import read_image

SIZE = 64 * 64 * (4 + 4 + 1)
"""Bytes of an image of `drawn`: for the model, and the small copy with what is seen of it."""


class Reader:
    """The real one, and what it was asked."""

    def __init__(self):
        self.names = []

    def __call__(self, path, name):
        self.names.append(name)
        return read_image(path, name)


@pytest.fixture
def reader():
    return Reader()


def drawn(folder, name, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def read(images, reader, path, visitor):
    with read_for(visitor):
        return images.read(path, path.name, reader)


def threads():
    return [each for each in threading.enumerate() if isinstance(each, threading.Timer)]


def test_a_image_is_decoded_once_by_its_content_whatever_its_name(tmp_path, reader):
    images = UploadCache()
    first = read(images, reader, drawn(tmp_path, "a.png"), "ada")
    again = read(images, reader, drawn(tmp_path, "b.png"), "ada")
    assert again is first
    assert reader.names == ["a.png"]
    images.clear()


def test_another_image_under_the_same_name_is_decoded(tmp_path, reader):
    images = UploadCache()
    read(images, reader, drawn(tmp_path, "a.png"), "ada")
    second = read(images, reader, drawn(tmp_path, "a.png", seed=1), "ada")
    np.testing.assert_array_equal(
        second.radiograph.pixels, read_image(tmp_path / "a.png").radiograph.pixels
    )
    read(images, reader, drawn(tmp_path, "a.png"), "ada")
    assert len(reader.names) == 3  # of each visitor only the last is kept
    images.clear()


def test_no_visitor_is_given_the_image_of_another(tmp_path, reader):
    images, path = UploadCache(), drawn(tmp_path, "a.png")
    ours = read(images, reader, path, "ada")
    assert read(images, reader, path, "grace") is not ours
    assert read(images, reader, path, None) is not ours
    assert images.read(path, "a.png", reader) is not ours
    assert len(reader.names) == 4
    images.clear()


def test_visitors_in_several_threads_are_not_mixed_up(tmp_path, reader):
    images = UploadCache()
    paths = [drawn(tmp_path, f"{i}.png", seed=i) for i in range(8)]

    def twice(i):
        return [read(images, reader, paths[i], f"visitor {i}") for _ in range(2)]

    with ThreadPoolExecutor(8) as pool:
        pairs = list(pool.map(twice, range(8)))
    assert all(one is other for one, other in pairs)
    assert len({id(one) for one, _ in pairs}) == len(reader.names) == 8
    images.clear()


def test_a_image_is_forgotten_in_time_without_being_asked_for(tmp_path, reader):
    images = UploadCache(seconds=0.2)
    read(images, reader, drawn(tmp_path, "a.png"), "ada")
    read(images, reader, tmp_path / "a.png", "grace")
    until = time.monotonic() + 5
    while images.count and time.monotonic() < until:
        time.sleep(0.02)
    assert images.count == 0
    assert threads() == []
    read(images, reader, tmp_path / "a.png", "ada")
    assert len(reader.names) == 3
    images.clear()
    assert images.count == 0


def test_the_oldest_are_forgotten_where_there_are_too_many(tmp_path, reader):
    images, path = UploadCache(most=2 * SIZE), drawn(tmp_path, "a.png")
    for visitor in ("ada", "grace", "ida"):
        read(images, reader, path, visitor)
    assert images.count == 2
    read(images, reader, path, "ida")
    assert len(reader.names) == 3
    read(images, reader, path, "ada")
    assert len(reader.names) == 4
    images.clear()


def test_a_image_too_large_to_keep_is_read_all_the_same(tmp_path, reader):
    images, path = UploadCache(most=SIZE - 1), drawn(tmp_path, "a.png")
    assert read(images, reader, path, "ada").radiograph.pixels.shape == (64, 64)
    assert images.count == 0
    images.clear()


def test_what_cannot_be_read_is_an_error_each_time(tmp_path, reader):
    images = UploadCache()
    (tmp_path / "bad.png").write_bytes(b"no image")
    for path in (tmp_path / "bad.png", tmp_path / "bad.png", tmp_path / "none.png"):
        with pytest.raises(RadiographError):
            read(images, reader, path, "ada")
    assert images.count == 0
    assert len(reader.names) == 3
