"""An uploaded image is decoded once per session, and cached for no other session, nor for long."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from app.upload_cache import UploadCache
from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.radiograph import read_image

SIZE = 64 * 64 * (4 + 4 + 1)
"""Bytes of an image of `drawn`: pixels for the model, and values and display of the small copy."""


class Reader:
    """The real one, with the names of the files that it read."""

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


def read(cache, path, session):
    return cache.read(path, path.name, session)


def timers():
    return {each for each in threading.enumerate() if isinstance(each, threading.Timer)}


def test_the_same_file_under_another_name_is_not_decoded_again(tmp_path, reader):
    cache = UploadCache(reader)
    first = read(cache, drawn(tmp_path, "a.png"), "ada")
    again = read(cache, drawn(tmp_path, "b.png"), "ada")
    assert again is first
    assert reader.names == ["a.png"]
    cache.close()


def test_another_image_under_the_same_name_is_decoded(tmp_path, reader):
    cache = UploadCache(reader)
    read(cache, drawn(tmp_path, "a.png"), "ada")
    second = read(cache, drawn(tmp_path, "a.png", seed=1), "ada")
    np.testing.assert_array_equal(
        second.radiograph.pixels, read_image(tmp_path / "a.png").radiograph.pixels
    )
    read(cache, drawn(tmp_path, "a.png"), "ada")
    assert len(reader.names) == 3  # of each session only the last is cached
    cache.close()


def test_no_session_gets_the_image_of_another(tmp_path, reader):
    cache, path = UploadCache(reader), drawn(tmp_path, "a.png")
    ours = read(cache, path, "ada")
    assert read(cache, path, "grace") is not ours
    assert read(cache, path, None) is not ours
    assert cache.read(path, "a.png") is not ours
    assert len(reader.names) == 4
    cache.close()


def test_sessions_in_several_threads_are_not_mixed_up(tmp_path, reader):
    cache = UploadCache(reader)
    paths = [drawn(tmp_path, f"{i}.png", seed=i) for i in range(8)]

    def twice(i):
        return [read(cache, paths[i], f"session {i}") for _ in range(2)]

    with ThreadPoolExecutor(8) as pool:
        pairs = list(pool.map(twice, range(8)))
    assert all(one is other for one, other in pairs)
    assert len({id(one) for one, _ in pairs}) == len(reader.names) == 8
    cache.close()


def test_an_image_expires_without_another_request(tmp_path, reader):
    cache, others = UploadCache(reader, seconds=0.2), timers()
    read(cache, drawn(tmp_path, "a.png"), "ada")
    read(cache, tmp_path / "a.png", "grace")
    until = time.monotonic() + 20
    while (cache.count or timers() - others) and time.monotonic() < until:
        time.sleep(0.02)
    assert cache.count == 0
    assert timers() <= others
    read(cache, tmp_path / "a.png", "ada")
    assert len(reader.names) == 3
    cache.close()
    assert cache.count == 0


def test_the_oldest_images_are_removed_where_there_are_too_many(tmp_path, reader):
    cache, path = UploadCache(reader, max_bytes=2 * SIZE), drawn(tmp_path, "a.png")
    for session in ("ada", "grace", "ida"):
        read(cache, path, session)
    assert cache.count == 2
    read(cache, path, "ida")
    assert len(reader.names) == 3
    read(cache, path, "ada")
    assert len(reader.names) == 4
    cache.close()


def test_an_image_too_large_to_cache_is_still_read(tmp_path, reader):
    cache, path = UploadCache(reader, max_bytes=SIZE - 1), drawn(tmp_path, "a.png")
    assert read(cache, path, "ada").radiograph.pixels.shape == (64, 64)
    assert cache.count == 0
    cache.close()


def test_a_file_that_cannot_be_read_is_an_error_each_time(tmp_path, reader):
    cache = UploadCache(reader)
    (tmp_path / "bad.png").write_bytes(b"no image")
    for path in (tmp_path / "bad.png", tmp_path / "bad.png", tmp_path / "none.png"):
        with pytest.raises(RadiographError):
            read(cache, path, "ada")
    assert cache.count == 0
    assert len(reader.names) == 3
