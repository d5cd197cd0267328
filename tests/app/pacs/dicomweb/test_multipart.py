"""multipart/related: parts are told apart whatever the pieces, and bounded."""

import random

import pytest

from app.pacs.dicomweb.multipart import MOST_PARTS, BadMultipartError, PartFiles, body_of
from tests.app.pacs.dicomweb.conftest import BOUNDARY, multipart


def read(tmp_path, body, kind, most=10_000, sizes=(7,)):
    draw, at = random.Random(1), 0
    with PartFiles(kind, tmp_path, most) as files:
        while at < len(body):
            size = draw.choice(sizes)
            files.feed(body[at : at + size])
            at += size
        parts = files.parts()
        found = [(p.kind, p.path.read_bytes() if p.path else None) for p in parts]
    assert list(tmp_path.iterdir()) == []
    return found


@pytest.mark.parametrize("sizes", [(1,), (3, 11), (100_000,)])
def test_parts_come_out_as_they_went_in(tmp_path, sizes):
    parts = [b"\r\n--b\r\n--b", b"", bytes(range(256)) * 3]
    body, kind = multipart(*parts)
    assert read(tmp_path, body, kind, sizes=sizes) == [("application/dicom", p) for p in parts]


def test_what_is_sent_is_one_part(tmp_path):
    _, kind = multipart()
    assert read(tmp_path, body_of(b"object", BOUNDARY), kind) == [("application/dicom", b"object")]


def test_a_part_beyond_its_bound_is_dropped_alone(tmp_path):
    body, kind = multipart(b"x" * 101, b"y" * 100)
    assert [data for _, data in read(tmp_path, body, kind, most=100)] == [None, b"y" * 100]


@pytest.mark.parametrize(
    "kind",
    [
        "application/dicom",
        "multipart/related",
        "multipart/related; boundary=",
        f"multipart/related; boundary={'x' * 71}",
        'multipart/related; type="application/dicom+xml"; boundary=b',
        "multipart/form-data; boundary=b",
        "multipart/related; boundary=\x00\xff",
    ],
)
def test_another_content_type_is_refused(tmp_path, kind):
    with pytest.raises(BadMultipartError):
        PartFiles(kind, tmp_path, 100)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        multipart(b"cut off")[0][:-8],
        b"--b1\r\n" + b"X: y\r\n" * 5000,
        b"--b1\r\n" + b"X" * 1_000_000,
        multipart(*[b""] * (MOST_PARTS + 1))[0],
    ],
)
def test_a_broken_or_endless_body_is_refused_and_leaves_nothing(tmp_path, body):
    with pytest.raises(BadMultipartError):
        read(tmp_path, body, multipart()[1], sizes=(4096,))
    assert list(tmp_path.iterdir()) == []
