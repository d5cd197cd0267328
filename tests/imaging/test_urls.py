"""Images by URL, from a real S3 server: pixels as of the file, and errors that name the remedy."""

import sys
from functools import partial
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_mm.core.errors import InputError, RadiographError
from cxr_mm.core.task import load_task
from cxr_mm.data.studies import BadRow, iter_studies
from cxr_mm.imaging import urls
from cxr_mm.imaging.radiograph import read_radiograph

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture(scope="module")
def png(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "1.png"
    grey = np.tile(np.arange(96, dtype=np.uint8), (90, 1))
    Image.fromarray(grey).save(path)
    return path


@pytest.fixture(scope="module")
def server(s3, png):
    """An S3 server on loopback with one image; the environment names it."""
    import fsspec

    fsspec.filesystem("s3").put_file(png, "radiographs/1.png")
    return s3


def ask_for_permission(address, after):
    """Let the server refuse unknown keys after some requests."""
    url, kind = f"{address}/moto-api/reset-auth", {"Content-Type": "text/plain"}
    urlopen(Request(url, str(after).encode(), kind)).close()


def test_an_object_is_read_as_the_file_is(server, png):
    own = read_radiograph(png)
    for url in ("s3://radiographs/1.png", f"file://{png}"):
        assert np.array_equal(read_radiograph(url).pixels, own.pixels)
    with pytest.raises(RadiographError, match=r"s3://radiographs/2.png: no such object"):
        read_radiograph("s3://radiographs/2.png")


def test_an_object_that_is_too_large_is_not_fetched(server, monkeypatch):
    monkeypatch.setattr(urls, "MAX_BYTES", 10)
    with pytest.raises(RadiographError, match="more than 0 MiB"):
        urls.read_url("s3://radiographs/1.png")


def test_a_row_without_its_object_is_answered_without_and_one_without_permission_fails(
    server, tmp_path
):
    task = load_task("synthetic")
    rows = {
        "study_id": ["there", "lost"],
        "image_path": ["s3://radiographs/1.png", "s3://radiographs/2.png"],
        "note": ["Fever.", "Fever."],
    }
    path = tmp_path / "studies.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    read = partial(iter_studies, task, path)
    there, lost = read()
    assert there.image.shape == (90, 96)
    assert lost.image is None
    assert lost.warnings == ("image: left out: no such object",)
    ask_for_permission(server, after=0)
    try:
        first, second = read()
    finally:
        ask_for_permission(server, after=1_000_000)
    for row in (first, second):
        assert isinstance(row, BadRow)
        assert row.kind == "no permission for it"


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("ftp://host/1.png", RadiographError, "images are not read by ftp. Use s3, "),
        ("gs://bucket/1.png", InputError, r"pip install 'cxr-mm\[gcs\]'"),
        ("file:///nowhere/1.png", RadiographError, "no such object"),
    ],
)
def test_what_cannot_be_read_names_the_remedy(monkeypatch, url, error, said):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(error, match=said):
        urls.read_url(url)


def test_a_store_that_cannot_be_reached_says_so(monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    for name, value in (KEYS | nowhere).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match="the store cannot be reached"):
        urls.read_url("s3://radiographs/1.png")
