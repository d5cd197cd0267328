from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cxr_mm.core.errors import TaskError
from cxr_mm.core.task import load_task
from cxr_mm.data.sources.synthetic import read_synthetic
from cxr_mm.data.synthetic.population import CLINICAL, FINDINGS, SynthesisSpec
from cxr_mm.data.synthetic.writer import synthesise

SPEC = SynthesisSpec(studies=45, size=96, seed=5, image_absent=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthesise(tmp_path_factory.mktemp("synthetic") / "made", SPEC, workers=1)


@pytest.fixture
def task():
    shipped = load_task("synthetic")
    options = SPEC.model_dump(include={"studies", "size", "seed", "image_absent"})
    return shipped.model_copy(
        update={"source": shipped.source.model_copy(update={"options": options})}
    )


def table(folder, name="manifest.csv"):
    return pd.read_csv(folder / name, dtype=str, keep_default_na=False)


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_same_bytes_whatever_the_number_of_workers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("cxr_mm.data.synthetic.writer.SPAWN_FROM", 1)
    again = synthesise(tmp_path / "again", SPEC, workers=2)
    assert content(again) == content(folder)


def test_every_image_has_a_mask_and_says_that_it_is_synthetic(folder):
    paths = [path for path in table(folder)["image_path"] if path]
    assert 0 < len(paths) < SPEC.studies
    assert len(list((folder / "images").iterdir())) == len(paths)
    for path in paths:
        with (
            Image.open(folder / path) as image,
            Image.open(folder / "masks" / image_name(path)) as m,
        ):
            assert image.mode == m.mode == "L"
            assert image.size == m.size
            assert "SYNTHETIC" in image.text["Description"]
            assert "SYNTHETIC" in m.text["Description"]


def image_name(path):
    return path.removeprefix("images/")


def test_masks_agree_with_the_truth(folder):
    truth = table(folder, "truth.csv").set_index("study_id")
    for path in (folder / "masks").iterdir():
        with Image.open(path) as mask:
            values = {value for _, value in mask.getcolors()}
        for bit, finding in ((1, "consolidation"), (2, "effusion")):
            assert any(value & bit for value in values) == (truth.loc[path.stem, finding] == "1")


def test_columns_are_those_of_the_task(folder):
    task = load_task("synthetic")
    assert task.clinical_names == CLINICAL
    assert task.finding_names == FINDINGS
    columns = {"study_id", "patient_id", "image_path", "view", "site", "note"}
    frame = table(folder)
    assert set(frame.columns) == columns | set(CLINICAL) | set(FINDINGS)
    for feature in task.clinical:
        if feature.type == "category":
            assert set(frame[feature.name]) <= {*feature.categories, ""}
    assert set(frame["view"]) <= set(task.views)
    for finding in FINDINGS:
        assert set(frame[finding]) <= {"0", "1", ""}


def test_the_shipped_task_makes_1500_studies():
    task = load_task("synthetic")
    assert task.synthetic
    assert SynthesisSpec.model_validate(task.source.options) == SynthesisSpec()


def test_read_synthetic_gives_what_it_wrote(folder, task, tmp_path):
    raw = read_synthetic(task, tmp_path / "no such folder", tmp_path / "work")
    written = table(folder)
    assert raw.dropped == []
    assert list(raw.frame["study_id"]) == list(written["study_id"])
    images = raw.frame["image_path"].dropna()
    assert len(images) == (written["image_path"] != "").sum()
    assert images.str.startswith(str(tmp_path / "work" / "source")).all()
    assert all(Path(path).is_file() for path in images)
    assert (raw.frame["note"].isna() == (written["note"] == "")).all()
    assert (raw.frame["crp"].isna() == (written["crp"] == "")).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prevalence": 0.2}, "prevalence"),
        ({"studies": 0}, "studies"),
        ({"lost_feature": "creatinine"}, "creatinine"),
        ({"site_mix": [0, 0, 0]}, "site_mix"),
    ],
)
def test_a_wrong_option_is_named(task, tmp_path, options, named):
    wrong = task.model_copy(update={"source": task.source.model_copy(update={"options": options})})
    with pytest.raises(TaskError, match=named):
        read_synthetic(wrong, tmp_path, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("cxr_mm.data.synthetic.writer.write_image", fail)
    with pytest.raises(OSError, match="disk full"):
        synthesise(tmp_path / "made", SPEC, workers=1)
    assert list(tmp_path.iterdir()) == []
