import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_mm.core.task import Finding, SourceSpec, SplitSpec, Task
from cxr_mm.data.leakage import audit, merged_groups, near_pairs, part_names
from cxr_mm.data.manifest import TEXT_COLUMNS, Manifest

TASK = Task(
    name="planted",
    title="Planted",
    problem="binary",
    findings=(Finding(name="effusion", title="Effusion"),),
    source=SourceSpec(kind="manifest_csv"),
    split=SplitSpec(protocol="patient"),
    licence="none",
    citation="none",
)
NO_PAIRS = np.zeros((0, 2), np.int64)


def manifest(groups, patients=None):
    count = len(groups)
    frame = pd.DataFrame(dict.fromkeys(TEXT_COLUMNS), index=range(count))
    frame["study_id"] = [f"s{i}" for i in range(count)]
    frame["group"], frame["patient_id"] = groups, patients or groups
    frame["pixel_row"] = range(count)
    frame["finding.effusion"] = [float(i % 2) for i in range(count)]
    return Manifest.checked(TASK, frame)


def split_table(m, parts):
    return pd.DataFrame(
        {"study_id": m.frame["study_id"], "group": m.frame["group"], "part": parts, "fold": 0}
    )


def squares(count, seed=0):
    rng = np.random.default_rng(seed)
    low = [Image.fromarray(rng.integers(0, 255, (5, 5), dtype=np.uint8)) for _ in range(count)]
    return np.stack([np.asarray(image.resize((96, 96), Image.Resampling.BICUBIC)) for image in low])


def quality(phashes, digests=None):
    digests = digests or [f"d{i}" for i in range(len(phashes))]
    return pd.DataFrame({"phash": [f"{h:016x}" for h in phashes], "file_sha256": digests})


def test_only_look_alikes_whose_pixels_agree_are_one_image():
    pixels = squares(4)
    brighter = np.clip(pixels[0] * 0.8 + 20, 0, 255).astype(np.uint8)
    pixels = np.concatenate([pixels, brighter[None]])
    near = near_pairs(manifest(list("abcde")), quality([0, 0b11, 2**63, 2**40 - 1, 1]), pixels, 4)
    pairs = {
        tuple(rows): (d, same)
        for rows, d, same in zip(
            near.rows.tolist(), near.distance.tolist(), near.same_image.tolist(), strict=True
        )
    }
    assert pairs == {
        (0, 1): (2, False),
        (0, 2): (1, False),
        (0, 4): (1, True),
        (1, 2): (3, False),
        (1, 4): (1, False),
        (2, 4): (2, False),
    }


def test_near_pairs_agree_with_a_plain_search_across_blocks(monkeypatch):
    monkeypatch.setattr("cxr_mm.data.leakage.BLOCK", 7)
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 10)
    phashes = [int(base[i % 10]) ^ (1 << int(rng.integers(64))) for i in range(40)]
    groups = [f"g{i // 3}" for i in range(40)]
    near = near_pairs(manifest(groups), quality(phashes), squares(40), 2)
    expected = [
        (i, j)
        for i in range(40)
        for j in range(i + 1, 40)
        if (phashes[i] ^ phashes[j]).bit_count() <= 2 and groups[i] != groups[j]
    ]
    assert sorted(map(tuple, near.rows.tolist())) == expected
    assert expected


def test_same_group_same_file_and_no_image_are_no_near_pairs():
    m = manifest(["a", "a", "b", "c", "d"])
    q = quality([0, 1, 1, 2**60 - 1, 0], ["x", "y", "y", "z", "w"])
    q.loc[4, ["phash", "file_sha256"]] = ""
    near = near_pairs(m, q, squares(5), 4)
    assert near.rows.tolist() == [[0, 2]]


def test_no_images_at_all():
    q = quality([0, 0])
    q[["phash", "file_sha256"]] = ""
    near = near_pairs(manifest(["a", "b"]), q, np.zeros((0, 32, 32), np.uint8), 4)
    assert near.rows.shape == (0, 2)
    assert near.correlation.shape == (0,)


def test_groups_merge_through_files_and_pairs_transitively():
    group = pd.Series(["e", "d", "c", "b", "a", "z"])
    files = pd.Series(["1", "2", "2", "3", "", ""])
    merged = merged_groups(group, files, np.array([[2, 3]]))
    assert merged.tolist() == ["e", "b", "b", "b", "a", "z"]
    assert merged_groups(group, files, NO_PAIRS).tolist() == ["e", "c", "c", "b", "a", "z"]


def test_audit_counts_studies_whose_patient_is_not_known():
    m = manifest(list("ab"), patients=["s0", "p"])
    table, q = split_table(m, ["train", "test"]), quality([0, 2**20], ["1", "2"])
    report = audit(m, table, q["file_sha256"], near_pairs(m, q, squares(2), 2))
    assert report["own_patients"] == 1


def test_audit_finds_what_was_planted():
    m = manifest(list("aabbccdd"), patients=["p", "p", "q", "q", "p", "r", "t", "t"])
    table = split_table(m, ["train", "train", "train", "test", "val", "val", "test", "test"])
    digests = ["1", "2", "3", "4", "1", "5", "6", "6"]
    phashes = [0, 2**20, 2**50 - 1, 2**40 - 1, 0, 2**30, 2**10, 2**10]
    pixels = squares(8)
    pixels[5] = pixels[1]
    q = quality(phashes, digests)
    report = audit(m, table, q["file_sha256"], near_pairs(m, q, pixels, 2))
    assert report["shared_groups"] == 1  # b
    assert report["shared_patients"] == 2  # p and q
    assert report["own_patients"] == 0
    assert report["exact_duplicates"] == {
        "files": 2,
        "files_across_parts": 1,
        "files_across_sites": 0,
        "listed": [{"studies": ["s0", "s4"], "parts": ["train", "val"]}],
    }
    near = report["near_duplicates"]
    assert near["same_image_across_parts"] == 1
    assert near["listed"][0] == {
        "studies": ["s1", "s5"],
        "parts": ["train", "val"],
        "bits": 2,
        "correlation": 1.0,
    }
    assert report["parts"]["test"]["findings"]["effusion"] == {
        "positive": 2,
        "negative": 1,
        "missing": 0,
        "prevalence": pytest.approx(2 / 3),
    }


def test_one_image_in_a_thousand_studies_does_not_list_every_pair():
    m = manifest([f"g{i}" for i in range(1000)])
    table = split_table(m, ["train", "test"] * 500)
    q = quality([5] * 1000, ["same"] * 1000)
    near = near_pairs(m, q, np.repeat(squares(1), 1000, axis=0), 4)
    report = audit(m, table, q["file_sha256"], near)
    assert report["exact_duplicates"]["files_across_parts"] == 1
    assert len(report["exact_duplicates"]["listed"]) == 1
    assert len(near.rows) == 0


def test_part_names_of_folds():
    table = pd.DataFrame({"part": ["", "", "train"], "fold": [0, 2, 0]})
    assert part_names(table).tolist() == ["fold 0", "fold 2", "train"]


def test_images_that_two_sites_share_are_counted():
    m = manifest(list("abcd"))
    m.frame["site"] = ["x", "y", "x", None]
    pixels = squares(4)
    pixels[2] = pixels[1]
    q = quality([0, 2**20, 2**20, 0], ["1", "2", "3", "1"])
    table = split_table(m, ["train", "train", "test", "test"])
    report = audit(m, table, q["file_sha256"], near_pairs(m, q, pixels, 2))
    assert report["exact_duplicates"]["files_across_sites"] == 0  # one of the two has no site
    assert report["near_duplicates"]["same_image_across_sites"] == 1
    m.frame["site"] = ["x", "y", "x", "y"]
    report = audit(m, table, q["file_sha256"], near_pairs(m, q, pixels, 2))
    assert report["exact_duplicates"]["files_across_sites"] == 1
