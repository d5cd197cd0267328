"""Shards: studies in Parquet files and tars are those of a CSV with paths, on disk and in S3."""

import io
import json
import tarfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cxr_mm.core.errors import InputError, ManifestError, RadiographError
from cxr_mm.core.task import load_task
from cxr_mm.data.sources.shard_tables import shard_files, table_digest
from cxr_mm.data.studies import iter_studies
from cxr_mm.data.tables import read_table
from cxr_mm.imaging.urls import read_url

TASK = load_task("synthetic")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with five small PNGs."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(5):
        grey = np.random.default_rng(number).integers(0, 256, (40, 48), dtype=np.uint8)
        Image.fromarray(grey).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def table(images):
    """Five studies; one has no image, and no study has everything else."""
    return pd.DataFrame(
        {
            "study_id": [f"s{number}" for number in range(5)],
            "patient_id": ["p1", "p1", "p2", "p3", "p4"],
            "age": [63.0, None, 41.5, 70.0, 22.0],
            "note": ["Fever.", None, "Cough", "None of note", None],
            "image_path": [f"{n}.png" if n != 3 else None for n in range(5)],
        }
    )


def bytes_of(images, name):
    return None if pd.isna(name) else (images / name).read_bytes()


def write_parquet(folder, table, images, nested=False):
    folder.mkdir()
    for number, rows in enumerate((table[:3], table[3:])):
        content = [bytes_of(images, name) for name in rows["image_path"]]
        if nested:
            content = [{"bytes": each, "path": "x.png"} for each in content]
        shard = pa.Table.from_pandas(rows.drop(columns="image_path"), preserve_index=False)
        shard = shard.append_column("image", pa.array(content))
        pq.write_table(shard, folder / f"{number}.parquet", row_group_size=2)
    return folder


def write_tars(folder, table, images):
    folder.mkdir()
    for number, rows in enumerate((table[:3], table[3:])):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for row in rows.to_dict("records"):
                fields = {"patient_id": row["patient_id"], "age": row["age"], "boxes": [1, 2]}
                fields["age"] = None if pd.isna(row["age"]) else row["age"]
                members = {"json": json.dumps(fields).encode()}
                members |= {} if pd.isna(row["note"]) else {"txt": row["note"].encode()}
                image = bytes_of(images, row["image_path"])
                members |= {"front.PNG": image} if image else {}
                for suffix, content in members.items():
                    entry = tarfile.TarInfo(f"./train/{row['study_id']}.{suffix}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def as_csv(table, images):
    path = images / "studies.csv"
    table.to_csv(path, index=False)
    return list(iter_studies(TASK, path))


def same(one, other, prefix=""):
    assert [study.study_id.removeprefix(prefix) for study in other] == [s.study_id for s in one]
    for a, b in zip(one, other, strict=True):
        assert (a.patient_id, a.note, a.clinical["age"]) == (
            b.patient_id,
            b.note,
            b.clinical["age"],
        )
        assert a.warnings == b.warnings
        np.testing.assert_array_equal(a.image, b.image)


def test_parquet_and_tars_have_the_studies_of_the_csv(table, images, as_csv, tmp_path):
    same(as_csv, list(iter_studies(TASK, write_parquet(tmp_path / "p", table, images), 4)))
    same(as_csv, list(iter_studies(TASK, write_parquet(tmp_path / "n", table, images, True))))
    tars = write_tars(tmp_path / "t", table, images)
    same(as_csv, list(iter_studies(TASK, tars, 4)), "./train/")
    assert [s.note for s in iter_studies(TASK, tars / "1.tar")] == ["None of note", None]


def test_shards_are_read_from_an_object_store(table, images, as_csv, tmp_path, s3):
    import fsspec

    store = fsspec.filesystem("s3")
    store.put(str(write_parquet(tmp_path / "p", table, images)), "radiographs/p", recursive=True)
    store.put(str(write_tars(tmp_path / "t", table, images)), "radiographs/t", recursive=True)
    same(as_csv, list(iter_studies(TASK, "s3://radiographs/p", 4)))
    same(as_csv, list(iter_studies(TASK, "s3://radiographs/t/", 4)), "./train/")
    assert shard_files("s3://radiographs/t/0.tar") == ("s3://radiographs/t/0.tar",)
    with pytest.raises(ManifestError, match="no table in shards is there"):
        next(iter_studies(TASK, "s3://radiographs/nothing"))
    with pytest.raises(ManifestError, match="there is no such bucket or object"):
        next(iter_studies(TASK, "s3://nowhere/0.tar"))


def test_a_plain_parquet_table_names_its_images_by_path(table, images, as_csv):
    path = images / "plain.parquet"
    table.to_parquet(path)
    same(as_csv, list(iter_studies(TASK, path)))


def test_the_digest_changes_with_names_and_sizes(table, images, tmp_path):
    folder = write_parquet(tmp_path / "p", table, images)
    before = table_digest(folder)
    assert table_digest(folder) == before
    with (folder / "1.parquet").open("ab") as stream:
        stream.write(b"x")
    assert table_digest(folder) != before


def test_a_shard_that_cannot_be_is_named(table, images, tmp_path):
    folder = write_parquet(tmp_path / "p", table, images)
    table.assign(weight=70).to_parquet(folder / "2.parquet")
    with pytest.raises(
        ManifestError, match=r"2.parquet: has .*weight, which the first shard lacks"
    ):
        read_table(folder)
    (folder / "2.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ManifestError, match=r"2.parquet: is no readable shard"):
        read_table(folder)
    with pytest.raises(ManifestError, match="label: the column is missing"):
        read_table(folder / "0.parquet", ["label"])
    two = tmp_path / "two.tar"
    with tarfile.open(two, "w") as archive:
        for suffix in ("front.png", "side.png"):
            archive.addfile(tarfile.TarInfo(f"a.{suffix}"))
    with pytest.raises(ManifestError, match="sample a has two images"):
        read_table(two)


def test_a_part_of_a_shard_that_is_not_there_is_a_fault_of_its_study(table, images, tmp_path):
    url = f"file://{write_parquet(tmp_path / 'p', table, images)}/1.parquet"
    for row in (0, 2):  # without an image, beyond the end
        with pytest.raises(RadiographError, match="there is no image in it"):
            read_url(f"{url}#row={row}")
    with pytest.raises(RadiographError, match="no such object"):
        read_url("file:///nowhere/0.tar#bytes=0-9")
    with pytest.raises(InputError, match="more than"):
        read_url(f"{url}#bytes=0-{1 << 40}")
