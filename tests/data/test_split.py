import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mm.core.config import Params, for_task
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import sha256_file
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Finding, SourceSpec, SplitSpec, Task, load_task
from cxr_mm.data.ingest import ingest
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.leakage import NearPairs, audit, part_names
from cxr_mm.data.manifest import TEXT_COLUMNS, Manifest
from cxr_mm.data.sources import read_source
from cxr_mm.data.split import assign, divide, divide_all, divisions, load_split, resamples, split

NO_PAIRS = np.zeros((0, 2), np.int64)


def task(findings=("effusion",), problem="binary", **split):
    return Task(
        name="toy",
        title="Toy",
        problem=problem,
        findings=tuple(Finding(name=name, title=name) for name in findings),
        source=SourceSpec(kind="manifest_csv"),
        split=SplitSpec(**{"protocol": "patient", **split}),
        licence="none",
        citation="none",
    )


def params_of(size):
    names = ("split", "train_image", "embed", "fuse", "evaluate", "explain", "reference")
    sections = {name: {} for name in names}
    return Params.model_validate({"tasks": ["toy"], "ingest": {"size": size}, **sections})


def manifest(t, groups, labels, parts=None):
    count = len(groups)
    frame = pd.DataFrame(dict.fromkeys(TEXT_COLUMNS), index=range(count))
    frame["study_id"] = [f"s{i}" for i in range(count)]
    frame["group"] = frame["patient_id"] = [f"g{g}" for g in groups]
    frame["pixel_row"] = range(count)
    frame["part"] = parts
    labels = np.asarray(labels, dtype=float).reshape(count, -1)
    for i, name in enumerate(t.finding_names):
        frame[f"finding.{name}"] = labels[:, i]
    return Manifest.checked(t, frame)


def files(m, names=None):
    return pd.Series(names or [f"file{i}" for i in range(len(m))])


def divided(t, m, names=None, same=NO_PAIRS, seed=0):
    return divide(m, files(m, names), same, t.split, seed)


studies = st.lists(st.tuples(st.integers(0, 25), st.sampled_from([0.0, 1.0])), min_size=30)
protocols = st.sampled_from(["patient", "folds", "official"])


@settings(max_examples=40, deadline=None)
@given(rows=studies, protocol=protocols, seed=st.integers(0, 5), data=st.data())
def test_every_study_in_one_part_and_no_group_or_image_in_two(rows, protocol, seed, data):
    groups, labels = zip(*rows, strict=True)
    t = task(protocol=protocol, folds=3)
    parts = ["test" if g % 4 == 0 else "train" for g in groups]
    m = manifest(t, groups, labels, parts)
    names = data.draw(st.lists(st.integers(0, 200), min_size=len(m), max_size=len(m)))
    names = [f"{part}{n}" for part, n in zip(parts, names, strict=True)]
    try:
        table = divided(t, m, names, seed=seed)
    except StageError:
        return  # Too few groups or labels; said so.
    again = divided(t, m, names, seed=seed)
    pd.testing.assert_frame_equal(table, again)
    part = part_names(table)
    for ids in (m.frame["group"].to_numpy(), table["group"].to_numpy(), np.asarray(names)):
        assert pd.Series(part).groupby(ids).nunique().max() == 1
    for one in resamples(table):
        together = np.concatenate((one.train, one.val, one.test))
        assert sorted(together) == list(range(len(m)))
        for chosen in (one.train, one.val, one.test):
            assert set(m.labels()[chosen].ravel()) == {0.0, 1.0}


def many(count=600, prevalence=0.1, seed=0):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, count // 2, count)
    return groups, (rng.random(count) < prevalence).astype(float)


def test_parts_get_their_share_of_studies_and_positives():
    t = task(val_fraction=0.15, test_fraction=0.2)
    groups, labels = many()
    table = divided(t, manifest(t, groups, labels))
    share = table["part"].value_counts(normalize=True)
    assert share["val"] == pytest.approx(0.15, abs=0.01)
    assert share["test"] == pytest.approx(0.2, abs=0.01)
    prevalence = pd.Series(labels).groupby(table["part"].to_numpy()).mean()
    assert prevalence.to_numpy() == pytest.approx(labels.mean(), abs=0.01)


def test_large_groups_are_in_every_part():
    t = task()
    groups = [g for g in range(60) for _ in range(6)] + list(range(60, 260))
    labels = [float(g % 5 == 0) for g in groups]
    m = manifest(t, groups, labels)
    sizes = m.frame.groupby(divided(t, m)["part"])["group"].agg(lambda g: g.value_counts().mean())
    assert sizes.max() < 1.4 * sizes.min()


def test_a_label_of_three_patients_reaches_all_three_parts():
    t = task(("common", "rare"), "multilabel")
    labels = np.zeros((200, 2))
    labels[::3, 0] = 1
    labels[:3, 1] = 1
    table = divided(t, manifest(t, range(200), labels))
    assert set(table["part"][:3]) == {"train", "val", "test"}


def test_missing_labels_are_no_negatives():
    t = task()
    labels = np.full(60, np.nan)
    labels[:6], labels[6:12] = 1, 0
    table = divided(t, manifest(t, range(60), labels))
    for rows in (slice(0, 6), slice(6, 12)):
        assert set(table["part"][rows]) == {"train", "val", "test"}


def test_folds_rotate_and_cover():
    t = task(protocol="folds", folds=4)
    groups, labels = many(200, 0.3)
    table = divided(t, manifest(t, groups, labels))
    found = resamples(table)
    assert [one.fold for one in found] == [0, 1, 2, 3]
    assert sorted(np.concatenate([one.test for one in found])) == list(range(200))
    for one, following in zip(found, [*found[1:], found[0]], strict=True):
        np.testing.assert_array_equal(one.val, following.test)
    assert set(table["part"]) == {""}


def test_further_divisions_are_others_of_the_same_groups():
    t = task(protocol="folds", folds=4, repeats=3)
    groups, labels = many(200, 0.3)
    m = manifest(t, groups, labels)
    table = divide_all(m, files(m), NO_PAIRS, t.split, 0)
    pd.testing.assert_frame_equal(table[[*divided(t, m)]], divided(t, m))
    assert divisions(table) == 3
    tests = [[set(one.test) for one in resamples(table, number)] for number in (1, 2, 3)]
    assert tests[0] != tests[1] != tests[2] != tests[0]
    for found in tests:
        assert sorted(row for part in found for row in part) == list(range(200))
        for part in found:
            here = table["group"].iloc[sorted(part)]
            assert not set(here) & set(table["group"].drop(index=sorted(part)))
    once = task(protocol="patient", repeats=3)
    assert divisions(divide_all(m, files(m), NO_PAIRS, once.split, 0)) == 1


def of_sites(names, labels):
    m = manifest(task(protocol="sites"), range(len(names)), labels)
    m.frame["site"] = names
    return m


def test_each_site_is_tested_by_a_model_of_the_others():
    m = of_sites(["b"] * 4 + ["a"] * 6 + ["c"] * 4, [0, 1] * 7)
    table = divided(m.task, m)
    found = resamples(table)
    assert [one.test.tolist() for one in found] == [[*range(4)], [*range(4, 10)], [*range(10, 14)]]
    for one in found:
        assert sorted([*one.train, *one.test]) == list(range(14))
        assert not len(one.val)
    assert part_names(table)[[0, 4, 13]].tolist() == ["b", "a", "c"]
    report = audit(m, table, files(m), NearPairs(NO_PAIRS, *np.zeros((2, 0))))
    assert report["parts"]["a"]["studies"] == 6
    assert divisions(divide_all(m, files(m), NO_PAIRS, m.task.split, 0)) == 1


def test_what_a_site_shares_with_another_does_not_train_its_model():
    m = of_sites(["a"] * 6 + ["b"] * 6, [0, 1] * 6)
    names = [f"file{i}" for i in range(12)]
    names[7] = names[1]
    table = divided(m.task, m, names, same=np.array([[2, 8]]))
    left, right = resamples(table)
    assert left.train.tolist() == [6, 9, 10, 11]
    assert right.train.tolist() == [0, 3, 4, 5]
    assert (left.test.tolist(), right.test.tolist()) == ([*range(6)], [*range(6, 12)])


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (["a"] * 8, [0, 1] * 4, "all studies are of one site, 'a'"),
        (["a"] * 4 + [None] * 4, [0, 1] * 4, "4 studies without a site"),
        (["a"] * 4 + ["b"] * 4, [0, 1] * 2 + [1] * 4, r"no negative study.*in test \(site b\)"),
        (["a"] * 4 + ["b"] * 4, [0, 1] * 2 + [np.nan] * 4, r"no positive.*in test \(site b\)"),
    ],
)
def test_what_cannot_be_divided_by_site_is_said(names, labels, message):
    m = of_sites(names, labels)
    with pytest.raises(StageError, match=message):
        divided(m.task, m)


def test_official_test_part_stays_and_validation_comes_from_train():
    t = task(protocol="official", val_fraction=0.25)
    groups, labels = many(400, 0.3)
    parts = ["test" if g < 50 else "val" if g < 55 else "train" for g in groups]
    table = divided(t, manifest(t, groups, labels, parts))
    np.testing.assert_array_equal(table["part"] == "test", np.asarray(parts) == "test")
    free = table["part"][np.asarray(parts) != "test"]
    assert (free == "val").mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("protocol", ["patient", "folds"])
def test_groups_that_share_a_image_stay_together(protocol):
    t = task(protocol=protocol, folds=3)
    m = manifest(t, range(40), [0.0, 1.0] * 20)
    names = [f"file{i}" for i in range(40)]
    names[7] = names[30]
    table = divided(t, m, names, same=np.array([[30, 11]]))
    assert len({part_names(table)[i] for i in (7, 30, 11)}) == 1
    assert table["group"].iloc[[7, 30, 11]].nunique() == 1
    assert table["group"].nunique() == 38


def test_official_test_is_left_alone_by_images_it_shares_with_train():
    t = task(protocol="official")
    parts = ["test"] * 10 + ["train"] * 30
    m = manifest(t, range(40), [0.0, 1.0] * 20, parts)
    names = [f"file{i}" for i in range(40)]
    names[0] = names[20]
    table = divided(t, m, names, same=np.array([[1, 21], [22, 23]]))
    assert table["part"].tolist()[:10] == ["test"] * 10
    assert table["group"][[0, 20, 1, 21]].nunique() == 4
    assert table["part"][22] == table["part"][23]


@pytest.mark.parametrize(
    ("t", "labels", "parts", "message"),
    [
        (task(), [0, 1], None, "2 groups cannot be divided into 3"),
        (task(protocol="folds", folds=9), [0, 1] * 4, None, "cannot be divided into 9"),
        (task(), [1, 0, 0, 0, 0, 1], None, "no positive study of effusion"),
        (task(), [1] * 9, None, "no negative study of effusion"),
        (task(protocol="official"), [0, 1] * 5, ["train"] * 10, "no positive study.*in test"),
        (task(protocol="official"), [0, 1] * 5, [None] * 10, "no official part"),
    ],
)
def test_what_cannot_be_divided_is_said(t, labels, parts, message):
    with pytest.raises(StageError, match=message) as caught:
        divided(t, manifest(t, range(len(labels)), labels, parts))
    assert caught.value.remedy


def test_official_split_that_parts_a_group_is_refused():
    t = task(protocol="official")
    m = manifest(t, [0, 0, *range(1, 9)], [0, 1] * 5, ["train", "test"] * 5)
    with pytest.raises(StageError, match="'g0'"):
        divided(t, m)


def test_assign_is_seeded():
    group = pd.Series([f"g{i}" for i in range(300)])
    strata = np.ones((300, 1))
    thirds = np.full(3, 1 / 3)
    first, again, other = (
        assign(group, strata, thirds, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert np.bincount(first).tolist() == [100, 100, 100]


def test_load_split_asks_for_the_stage():
    with pytest.raises(StageError, match="split"):
        load_split(TaskPaths("none", Path("/nowhere")))


def test_split_of_kermany_is_clean(data_root, tmp_path):
    t = load_task("pneumonia3")
    m = to_manifest(t, read_source(t, data_root, tmp_path)).manifest
    digests = m.frame["image_path"].map(lambda path: sha256_file(Path(path)))
    table = divide(m, digests, NO_PAIRS, t.split, 0)
    none = NearPairs(NO_PAIRS, np.zeros(0, np.int64), np.zeros(0))
    report = audit(m, table, digests, none)
    assert report["shared_groups"] == 0
    assert 25 <= report["exact_duplicates"]["files"] <= 35
    assert report["exact_duplicates"]["files_across_parts"] == 0
    assert report["parts"]["test"]["studies"] == 624
    for name in t.finding_names:
        shares = [report["parts"][p]["findings"][name]["prevalence"] for p in ("train", "val")]
        assert shares[0] == pytest.approx(shares[1], abs=0.01)


def test_split_of_cohen_keeps_a_case_published_twice_together(data_root, tmp_path):
    t = load_task("icu")
    params = for_task(params_of(size=64), t)
    paths = TaskPaths(t.name, tmp_path)
    ingest(t, params, paths, data_root)
    split(t, params, paths)
    report = json.loads((paths.split / "audit.json").read_text())
    assert report["near_duplicates"]["same_image"] >= 4
    assert report["near_duplicates"]["same_image_across_parts"] == 0
    table = load_split(paths)
    group = table.groupby(table["study_id"].str.split("/").str[0])["group"].first()
    assert group["97"] == group["178"]
