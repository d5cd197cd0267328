import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_mm.core.config import Params
from cxr_mm.core.errors import DataNotFoundError, ManifestError, StageError
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import ClinicalFeature, Finding, NoteSpec, SourceSpec, SplitSpec, Task
from cxr_mm.data import ingest as module
from cxr_mm.data.ingest import ingest
from cxr_mm.data.manifest import load_manifest, load_quality
from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.data.sources import RawStudies
from cxr_mm.data.sources.losses import Dropped
from cxr_mm.imaging.quality import QUALITY_NAMES

SECTIONS = ("split", "train_image", "embed", "fuse", "evaluate", "explain", "reference")
PARAMS = Params.model_validate(
    {"tasks": ["toy"], "ingest": {"size": 32, "workers": 1}, **{name: {} for name in SECTIONS}}
)


def task(**changes):
    fields = {
        "name": "toy",
        "title": "Toy",
        "problem": "binary",
        "findings": (Finding(name="effusion", title="Effusion"),),
        "source": SourceSpec(kind="manifest_csv", folder="toy"),
        "split": SplitSpec(protocol="patient"),
        "clinical": (
            ClinicalFeature(name="age", title="Age", type="number", minimum=0, maximum=120),
        ),
        "note": NoteSpec(),
        "licence": "none",
        "citation": "none",
    }
    return Task(**{**fields, **changes})


IMAGE_ONLY = {"clinical": (), "note": None}


@pytest.fixture
def root(tmp_path):
    """A data root with six studies: one image is text, one row has none, one age is impossible."""
    folder = tmp_path / "data_root" / "toy"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in "abcd":
        image = rng.integers(0, 255, (150, 140), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{name}.png")
    (folder / "text.png").write_text("no image")
    pd.DataFrame(
        {
            "study_id": list("uvwxyz"),
            "patient_id": ["p1", "p1", "p2", "p3", "p4", "p5"],
            "image_path": ["a.png", "b.png", "text.png", None, "c.png", "a.png"],
            "note": ["cough", None, "fever", "well", None, None],
            "age": ["60", "300", "50", None, "", "40"],
            "effusion": ["1", "0", "1", "0", "", "0"],
        }
    ).to_csv(folder / "manifest.csv", index=False)
    return tmp_path / "data_root"


@pytest.fixture
def paths(tmp_path):
    return TaskPaths("toy", tmp_path / "project")


def report_of(paths):
    return json.loads((paths.ingest / "report.json").read_text())


def test_manifest_pixels_quality_and_report_agree(root, paths):
    ingest(task(), PARAMS, paths, root)
    manifest, quality = load_manifest(paths, task()), load_quality(paths)
    frame, pixels = manifest.frame, open_pixels(paths.pixels)
    assert frame["study_id"].tolist() == ["u", "v", "w", "x", "z"]
    assert frame["pixel_row"].tolist() == [0, 1, -1, -1, 0]
    assert pixels.shape == (2, 32, 32)
    assert frame["note"].tolist() == ["cough", None, "fever", "well", None]
    assert frame["image_path"][0] == str(root / "toy" / "a.png")
    others = ["text", "file_sha256", "phash", "warnings"]
    assert list(quality) == ["study_id", *QUALITY_NAMES, *others]
    assert not quality["text"].any()
    assert quality["study_id"].tolist() == frame["study_id"].tolist()
    assert quality["exposure"].notna().tolist() == [True, True, False, False, True]
    assert quality["file_sha256"][0] == quality["file_sha256"][4] != ""
    report = report_of(paths)
    assert (report["studies_in_source"], report["studies"], report["patients"]) == (6, 5, 4)
    assert report["images"] == 2
    assert report["modalities"] == {"image": 3, "tabular": 3, "note": 3}
    assert report["findings"]["effusion"] == {"positive": 2, "negative": 3, "missing": 0}
    assert report["dropped"]["reasons"] == {"no label": {"count": 1, "examples": ["y"]}}
    assert report["kept_without_image"]["count"] == 1
    assert report["values_cleared"] == {
        "clinical.age": {
            "cleared": 1,
            "given": 4,
            "expected": "a number from 0 to 120",
            "reasons": {"out of range": {"count": 1, "examples": ["300"]}},
        }
    }


def test_summary_says_everything_that_was_left_out(root, paths, monkeypatch):
    csv = root / "toy" / "manifest.csv"
    frame = pd.read_csv(csv, dtype=str)
    frame["note"] = None
    frame.loc[frame["study_id"] == "v", "image_path"] = "gone.png"
    frame.loc[frame["study_id"] == "v", "age"] = "30"
    frame.loc[frame["study_id"] == "x", "age"] = "n.k."
    frame.loc[frame["study_id"] == "x", "image_path"] = "b.png"
    frame.to_csv(csv, index=False)
    monkeypatch.setattr(module, "read_source", with_files_passed_over(module.read_source))
    assert ingest(task(), PARAMS, paths, root).splitlines() == [
        "6 studies read, 5 used (image 3, clinical features 4), 1 left out",
        "  effusion: 2 positive, 3 negative, 0 unknown",
        "  left out: 1 no label (as y)",
        f"  without image: 1 radiograph: {REASON_OF_TEXT} (as w)",
        "  without image: 1 radiograph: no such file (as v)",
        "  cleared: 1 of 5 values of clinical.age (1 no number; found 'n.k.'; expected a number"
        " from 0 to 120)",
        "  files passed over: 3 .ima",
        "  images with contradicting labels: 1",
        "  note: no study has any note, which the task uses",
    ]
    report = report_of(paths)
    assert report["files_passed_over"] == {".ima": 3}
    assert report["contradicting_labels"] == {"count": 1, "examples": [["u", "z"]]}


def test_labels_that_say_nothing_are_counted_apart_from_negative_ones(root, paths):
    csv = root / "toy" / "manifest.csv"
    frame = pd.read_csv(csv, dtype=str)
    frame.assign(edema=["1", "-1", "", "0", "1", "-1"]).to_csv(csv, index=False)
    edema = Finding(name="edema", title="Edema", unlabelled=("-1",))
    both = task(problem="multilabel", findings=(*task().findings, edema))
    lines = ingest(both, PARAMS, paths, root).splitlines()
    assert lines[1:3] == [
        "  effusion: 2 positive, 3 negative, 1 unknown",
        "  edema: 2 positive, 1 negative, 3 unknown",
    ]


REASON_OF_TEXT = "neither a PNG, a JPEG nor a DICOM file, whatever it is called"


def with_files_passed_over(read):
    return lambda *given: replace(read(*given), passed_over=Counter({".ima": 3}))


def test_warnings_of_the_reader_are_reported_by_study(root, paths, monkeypatch):
    build = module.build_cache

    def warned(*given, **chosen):
        return [replace(row, warnings=("odd window",)) for row in build(*given, **chosen)]

    monkeypatch.setattr(module, "build_cache", warned)
    assert "  warning: 5 images: odd window" in ingest(task(), PARAMS, paths, root)
    assert report_of(paths)["image_warnings"]["odd window"]["examples"] == list("uvwxz")
    assert load_quality(paths)["warnings"].eq("odd window").all()


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        (
            "effusion",
            "maybe",
            r"^task toy: no study left of 6: 6 label .*found 'maybe'; expected 1 or 0",
        ),
        (
            "age",
            "old",
            r"max_loss = 0\.5 allows: cleared were 5 of 5 values .*found 'old'; expected a num",
        ),
        ("image_path", "gone.png", r"images cannot be read: 4 radiograph: no such file"),
    ],
)
def test_a_loss_above_the_limit_is_an_error_with_a_report(root, paths, column, cell, words):
    csv = root / "toy" / "manifest.csv"
    frame = pd.read_csv(csv, dtype=str).assign(**{column: cell})
    frame.to_csv(csv, index=False)
    with pytest.raises(ManifestError, match=words) as error:
        ingest(task(), PARAMS, paths, root)
    assert "max_loss" in str(error.value)
    assert [path.name for path in paths.ingest.iterdir()] == ["report.json"]
    assert report_of(paths)["studies_in_source"] == 6


@pytest.mark.parametrize(("column", "cell"), [("effusion", "maybe"), ("age", "old")])
def test_what_the_table_loses_is_refused_before_any_image_is_decoded(
    root, paths, monkeypatch, column, cell
):
    csv = root / "toy" / "manifest.csv"
    pd.read_csv(csv, dtype=str).assign(**{column: cell}).to_csv(csv, index=False)
    monkeypatch.setattr(module, "build_cache", _interrupt)
    with pytest.raises(ManifestError, match="max_loss"):
        ingest(task(), PARAMS, paths, root)
    report = report_of(paths)
    assert report["studies_in_source"] == 6
    assert not {"images", "modalities", "kept_without_image"} & set(report), "none was decoded"


def test_a_larger_limit_accepts_the_loss(root, paths):
    csv = root / "toy" / "manifest.csv"
    pd.read_csv(csv, dtype=str).assign(age="old").to_csv(csv, index=False)
    more = PARAMS.ingest.model_copy(update={"max_loss": 1.0})
    summary = ingest(task(), PARAMS.model_copy(update={"ingest": more}), paths, root)
    assert "cleared: 5 of 5 values of clinical.age" in summary


def test_study_with_nothing_left_is_dropped_with_the_reason(root, paths):
    ingest(task(**IMAGE_ONLY), PARAMS, paths, root)
    report = report_of(paths)
    assert load_manifest(paths, task(**IMAGE_ONLY)).frame["study_id"].tolist() == ["u", "v", "z"]
    (reason,) = (r for r in report["dropped"]["reasons"] if r.startswith("radiograph: "))
    assert report["dropped"]["reasons"][reason] == {"count": 1, "examples": ["w"]}
    assert report["studies_in_source"] == report["studies"] + report["dropped"]["count"]


def test_same_input_gives_the_same_bytes(root, paths):
    ingest(task(), PARAMS, paths, root)
    first = {path.name: path.read_bytes() for path in paths.ingest.iterdir()}
    ingest(task(), PARAMS, paths, root)
    assert {path.name: path.read_bytes() for path in paths.ingest.iterdir()} == first
    assert set(first) == {"manifest.parquet", "pixels.npy", "quality.parquet", "report.json"}
    assert [path.name for path in paths.data.iterdir()] == ["ingest"]


@pytest.mark.parametrize("step", ["write_json", "write_parquet", "build_cache", "label_studies"])
def test_interrupted_ingest_leaves_the_old_one_whole(root, paths, monkeypatch, step):
    ingest(task(), PARAMS, paths, root)
    first = {path.name: path.read_bytes() for path in paths.ingest.iterdir()}
    monkeypatch.setattr(module, step, _interrupt)
    with pytest.raises(KeyboardInterrupt):
        ingest(task(), PARAMS, paths, root)
    assert {path.name: path.read_bytes() for path in paths.ingest.iterdir()} == first
    assert [path.name for path in paths.data.iterdir()] == ["ingest"]


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def test_what_a_killed_run_left_is_removed(root, paths):
    leftover = paths.data / ".ingest.abc"
    (leftover / "source").mkdir(parents=True)
    ingest(task(), PARAMS, paths, root)
    assert not leftover.exists()


def test_files_that_a_source_makes_survive_the_rename(paths, monkeypatch, tmp_path):
    def source(_task, _root, work):
        (work / "source").mkdir()
        path = work / "source" / "a.png"
        Image.fromarray(np.arange(40_000, dtype=np.uint32).reshape(200, 200) >> 8).convert(
            "L"
        ).save(path)
        blank = dict.fromkeys(("group", "view", "site", "publisher", "part", "note"))
        row = {"study_id": "s", "patient_id": "p", "image_path": str(path), "effusion": "1"}
        return RawStudies(pd.DataFrame([{**blank, **row}]), [Dropped("t", "made up")])

    monkeypatch.setattr(module, "read_source", source)
    ingest(task(**IMAGE_ONLY), PARAMS, paths, tmp_path)
    stored = pd.read_parquet(paths.manifest)["image_path"][0]
    assert stored == "data/toy/ingest/source/a.png"
    found = load_manifest(paths, task(**IMAGE_ONLY)).frame["image_path"][0]
    assert found == str(paths.ingest / "source/a.png")
    with Image.open(found) as image:
        assert image.size == (200, 200)
    assert report_of(paths)["dropped"]["reasons"]["made up"]["examples"] == ["t"]


def test_task_without_images_has_an_empty_cache(root, paths):
    t = task(has_image=False)
    ingest(t, PARAMS, paths, root)
    assert load_manifest(paths, t).frame["pixel_row"].eq(-1).all()
    assert open_pixels(paths.pixels).shape == (0, 32, 32)


def test_nothing_readable_is_one_clear_error_and_leaves_the_report(root, paths):
    for image in (root / "toy").glob("*.png"):
        image.write_text("no image")
    with pytest.raises(ManifestError, match="no study left of 6"):
        ingest(task(**IMAGE_ONLY), PARAMS, paths, root)
    assert [path.name for path in paths.ingest.iterdir()] == ["report.json"]
    assert report_of(paths)["dropped"]["count"] == 6


def test_missing_source_leaves_nothing(tmp_path, paths):
    with pytest.raises(DataNotFoundError):
        ingest(task(), PARAMS, paths, tmp_path / "nowhere")
    assert list(paths.data.iterdir()) == []


def test_loading_asks_for_the_stage(paths):
    with pytest.raises(StageError, match="ingest"):
        load_manifest(paths, task())
    with pytest.raises(StageError, match="ingest"):
        load_quality(paths)


def test_manifest_of_another_task_is_refused(root, paths):
    ingest(task(), PARAMS, paths, root)
    other = task(findings=(Finding(name="mass", title="Mass"),))
    with pytest.raises(ManifestError, match=r"finding\.mass"):
        load_manifest(paths, other)
