"""Kept films: decoded once for whoever handed them in, kept for nobody else and not for long."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from app.kept_films import KeptFilms, read_for
from cxr_mm.data.radiograph import read_film
from cxr_mm.errors import RadiographError

SIZE = 64 * 64 * (4 + 4 + 1)
"""Bytes of a film of `drawn`: for the model, and the small copy with what is seen of it."""


class Reader:
    """The real one, and what it was asked."""

    def __init__(self):
        self.names = []

    def __call__(self, path, name):
        self.names.append(name)
        return read_film(path, name)


@pytest.fixture
def reader():
    return Reader()


def drawn(folder, name, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def read(films, reader, path, visitor):
    with read_for(visitor):
        return films.read(path, path.name, reader)


def threads():
    return [each for each in threading.enumerate() if isinstance(each, threading.Timer)]


def test_a_film_is_decoded_once_by_its_content_whatever_its_name(tmp_path, reader):
    films = KeptFilms()
    first = read(films, reader, drawn(tmp_path, "a.png"), "ada")
    again = read(films, reader, drawn(tmp_path, "b.png"), "ada")
    assert again is first
    assert reader.names == ["a.png"]
    films.clear()


def test_another_film_under_the_same_name_is_decoded(tmp_path, reader):
    films = KeptFilms()
    read(films, reader, drawn(tmp_path, "a.png"), "ada")
    second = read(films, reader, drawn(tmp_path, "a.png", seed=1), "ada")
    np.testing.assert_array_equal(
        second.radiograph.pixels, read_film(tmp_path / "a.png").radiograph.pixels
    )
    read(films, reader, drawn(tmp_path, "a.png"), "ada")
    assert len(reader.names) == 3  # of each visitor only the last is kept
    films.clear()


def test_no_visitor_is_given_the_film_of_another(tmp_path, reader):
    films, path = KeptFilms(), drawn(tmp_path, "a.png")
    ours = read(films, reader, path, "ada")
    assert read(films, reader, path, "grace") is not ours
    assert read(films, reader, path, None) is not ours
    assert films.read(path, "a.png", reader) is not ours
    assert len(reader.names) == 4
    films.clear()


def test_visitors_in_several_threads_are_not_mixed_up(tmp_path, reader):
    films = KeptFilms()
    paths = [drawn(tmp_path, f"{i}.png", seed=i) for i in range(8)]

    def twice(i):
        return [read(films, reader, paths[i], f"visitor {i}") for _ in range(2)]

    with ThreadPoolExecutor(8) as pool:
        pairs = list(pool.map(twice, range(8)))
    assert all(one is other for one, other in pairs)
    assert len({id(one) for one, _ in pairs}) == len(reader.names) == 8
    films.clear()


def test_a_film_is_forgotten_in_time_without_being_asked_for(tmp_path, reader):
    films = KeptFilms(seconds=0.2)
    read(films, reader, drawn(tmp_path, "a.png"), "ada")
    read(films, reader, tmp_path / "a.png", "grace")
    until = time.monotonic() + 5
    while films.count and time.monotonic() < until:
        time.sleep(0.02)
    assert films.count == 0
    assert threads() == []
    read(films, reader, tmp_path / "a.png", "ada")
    assert len(reader.names) == 3
    films.clear()
    assert films.count == 0


def test_the_oldest_are_forgotten_where_there_are_too_many(tmp_path, reader):
    films, path = KeptFilms(most=2 * SIZE), drawn(tmp_path, "a.png")
    for visitor in ("ada", "grace", "ida"):
        read(films, reader, path, visitor)
    assert films.count == 2
    read(films, reader, path, "ida")
    assert len(reader.names) == 3
    read(films, reader, path, "ada")
    assert len(reader.names) == 4
    films.clear()


def test_a_film_too_large_to_keep_is_read_all_the_same(tmp_path, reader):
    films, path = KeptFilms(most=SIZE - 1), drawn(tmp_path, "a.png")
    assert read(films, reader, path, "ada").radiograph.pixels.shape == (64, 64)
    assert films.count == 0
    films.clear()


def test_what_cannot_be_read_is_an_error_each_time(tmp_path, reader):
    films = KeptFilms()
    (tmp_path / "bad.png").write_bytes(b"no film")
    for path in (tmp_path / "bad.png", tmp_path / "bad.png", tmp_path / "none.png"):
        with pytest.raises(RadiographError):
            read(films, reader, path, "ada")
    assert films.count == 0
    assert len(reader.names) == 3
