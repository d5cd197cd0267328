"""Archive: what is handed in is taken under its name; an attack costs a file or brings an error."""

import io
import random
import stat
import struct
import tempfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from app import archive
from app.archive import opened
from cxr_mm.core.errors import InputError

ESCAPES = [
    "../image.png",
    "a/../../image.png",
    "/etc/image.png",
    "..\\image.png",
    "C:\\image.png",
    "C:image.png",
    "\\\\host\\share\\image.png",
]


def png(seed=0, side=40):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


IMAGE = png()


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    """A zip file's bytes; members: name or ZipInfo → content."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as created:
        for name, content in members:
            created.writestr(name, content, compress_type=compression)
    return stream.getvalue()


@pytest.fixture
def put(tmp_path):
    """Writes a file as the page would have it, and gives its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def taken(*paths):
    with opened(paths) as upload:
        return upload


def reasons(upload):
    return {row.study_id: row.reason for row in upload.refused}


def test_loose_images_and_members_of_zip_files_are_taken_under_their_names(put):
    with opened([put("a.png", IMAGE), put("b.zip", zipped([("in/c.png", png(1))]))]) as upload:
        assert [image.name for image in upload.images] == ["a.png", "in/c.png"]
        assert upload.images[1].path.read_bytes() == png(1)
        assert upload.refused == ()
        assert upload.table is None


def test_what_is_unpacked_is_seen_by_nobody_else_and_not_left_behind(put):
    with opened([put("b.zip", zipped([("c.png", IMAGE)]))]) as upload:
        folder = upload.images[0].path.parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_what_a_file_is_is_told_by_its_content(put):
    upload = taken(put("a.png", zipped([("b.png", IMAGE)])), put("c.zip", IMAGE))
    assert [image.name for image in upload.images] == ["b.png", "c.zip"]
    upload = taken(put("image.csv", IMAGE))
    assert upload.table is None
    assert len(upload.images) == 1


def test_the_one_csv_may_lie_in_a_zip_file_and_two_are_refused(put):
    upload = taken(put("b.zip", zipped([("in/rows.CSV", b"study_id\ns1\n"), ("c.png", IMAGE)])))
    assert upload.table.name == "in/rows.CSV"
    assert len(upload.images) == 1
    with pytest.raises(InputError, match=r"more than one CSV \(x.csv, y.csv\)"):
        taken(put("x.csv", b"study_id\n"), put("y.csv", b"study_id\n"))


def test_folders_and_what_systems_add_are_passed_over_in_silence(put):
    names = ["in/", "__MACOSX/in/._a.png", "in/.DS_Store", ".hidden\\a.png", "empty", "./"]
    data = zipped([*((n, b"") for n in names), ("./a.png", IMAGE)]).replace(b"empty", b"\0mpty")
    upload = taken(put("b.zip", data))
    assert [image.name for image in upload.images] == ["./a.png"]
    assert upload.refused == ()


@pytest.mark.parametrize("name", ESCAPES)
def test_a_member_that_leads_out_is_refused_and_the_rest_is_taken(put, tmp_path, name):
    upload = taken(put("b.zip", zipped([(name, IMAGE), ("good.png", IMAGE)])))
    assert list(reasons(upload)) == [name]
    assert "leads out" in upload.refused[0].reason
    assert [image.name for image in upload.images] == ["good.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]


def test_a_symbolic_link_is_refused(put):
    link = zipfile.ZipInfo("link.png")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    upload = taken(put("b.zip", zipped([(link, b"/etc/passwd"), ("good.png", IMAGE)])))
    assert "link or device" in reasons(upload)["link.png"]
    assert len(upload.images) == 1


def test_an_encrypted_member_is_refused(put):
    data = bytearray(zipped([("a.png", IMAGE)]))
    data[6] |= 1
    data[data.index(archive.DIRECTORY_ENTRY) + 8] |= 1
    assert "encrypted" in reasons(taken(put("b.zip", bytes(data))))["a.png"]


def test_a_compression_that_may_ask_for_gigabytes_is_refused(put):
    upload = taken(put("b.zip", zipped([("a.png", IMAGE)], zipfile.ZIP_LZMA)))
    assert "compression" in reasons(upload)["a.png"]


def test_a_zip_file_in_a_zip_file_is_refused_whatever_it_is_called(put):
    inner = zipped([("zeros", bytes(1_000_000))])
    upload = taken(put("b.zip", zipped([("a.png", inner), ("good.png", IMAGE)])))
    assert "a zip file in a zip file" in reasons(upload)["a.png"]
    assert len(upload.images) == 1


def test_a_bomb_of_zeros_is_stopped_while_it_inflates_and_leaves_nothing(
    put, tmp_path, monkeypatch
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    zeros = bytes(archive.FILE_BYTES)
    bomb = put("bomb.zip", zipped([(f"{k}.png", zeros) for k in range(3)]))
    assert bomb.stat().st_size < 300_000
    with pytest.raises(InputError, match=r"bomb.zip: it inflates to more than 100 times its size"):
        taken(bomb)
    assert not list((tmp_path / "temporary").iterdir())


def test_zip_files_may_not_inflate_too_far_together(put, monkeypatch):
    monkeypatch.setattr(archive, "ALL_BYTES", 3 * len(IMAGE))
    first, second = (
        put(f"{k}.zip", zipped([(f"{k}{m}.png", IMAGE) for m in range(2)])) for k in "xy"
    )
    assert len(taken(first).images) == 2
    with pytest.raises(InputError, match=r"y.zip: it inflates"):
        taken(first, second)


def test_a_file_too_large_is_refused_and_the_rest_is_taken(put, monkeypatch):
    monkeypatch.setattr(archive, "FILE_BYTES", 50_000)
    large = png(side=300)
    packed = zipped([("c.png", bytes(60_000)), ("d.png", png(1))])
    monkeypatch.setattr(archive, "RATIO", 1000)
    upload = taken(put("large.png", large), put("small.png", IMAGE), put("b.zip", packed))
    assert list(reasons(upload)) == ["large.png", "c.png"]
    assert [image.name for image in upload.images] == ["small.png", "d.png"]


def test_a_member_that_belies_its_size_is_refused(put):
    data = bytearray(zipped([("a.png", bytes(300_000) + IMAGE), ("good.png", IMAGE)]))
    for mounted in (data.index(b"PK\x03\x04") + 22, data.index(archive.DIRECTORY_ENTRY) + 24):
        struct.pack_into("<L", data, mounted, 10)
    upload = taken(put("b.zip", bytes(data)))
    assert "damaged" in reasons(upload)["a.png"]
    assert [image.name for image in upload.images] == ["good.png"]


def test_five_hundred_files_are_taken_and_one_more_is_not(put):
    members = [(f"{k}.png", IMAGE) for k in range(archive.FILES)]
    full = put("full.zip", zipped(members))
    assert len(taken(full).images) == 500
    with pytest.raises(InputError, match="more than 500 files"):
        taken(full, put("more.png", IMAGE))
    with pytest.raises(InputError, match="more than 500 files"):
        taken(put("twice.zip", zipped([(f"../{k}.png", b"") for k in range(501)])))


def test_a_zip_file_of_very_many_entries_is_refused_before_they_are_read(put):
    entries = [(f"{k}/", b"") for k in range(archive.ENTRIES + 1)]
    with pytest.raises(InputError, match="more than 2000 entries"):
        taken(put("b.zip", zipped(entries)))


def test_images_of_one_name_are_not_mistaken_for_each_other(put):
    upload = taken(put("a.png", IMAGE), put("b.zip", zipped([("a.png", png(1))])))
    assert "another image has this name" in reasons(upload)["a.png"]
    assert len(upload.images) == 1


def test_a_zip_file_cut_short_is_an_error_that_names_it(put):
    whole = zipped([("a.png", IMAGE)])
    with pytest.raises(InputError, match=r"b.zip: the zip file is damaged or cut short\. Make"):
        taken(put("b.zip", whole[:-30]))


def test_a_damaged_member_is_refused_and_the_rest_is_taken(put):
    data = bytearray(zipped([("a.png", IMAGE), ("b.png", IMAGE)], zipfile.ZIP_STORED))
    data[200] ^= 0xFF
    upload = taken(put("b.zip", bytes(data)))
    assert "damaged" in reasons(upload)["a.png"]
    assert [image.name for image in upload.images] == ["b.png"]


def test_no_damage_whatever_raises_anything_but_an_input_error(put):
    whole = zipped([("a.png", IMAGE), ("in/b.png", png(1)), ("rows.csv", b"study_id\n1\n")])
    draw, faults = random.Random(0), 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            # mostly among the directory's bytes, where little is left to the checksum
            start = draw.choice([4, len(data) - 220])
            data[draw.randrange(start, len(data))] = draw.randrange(256)
        try:
            faults += len(taken(put("b.zip", bytes(data))).refused)
        except InputError:
            faults += 1
    assert faults > 100


def test_a_name_is_shown_without_what_would_change_how_it_is_read(put):
    names = ["right\u202egnp.image", "line\nbreak.png", "x" * 300 + ".png"]
    upload = taken(put("b.zip", zipped([(n, IMAGE) for n in names])))
    session = [image.name for image in upload.images]
    assert session[:2] == ["right�gnp.image", "line�break.png"]
    assert len(session[2]) == archive.LONGEST_NAME
    assert session[2].endswith(".png")
