"""Worklist: every study that can be answered is, as it would be alone, and the rest is listed."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.archive import Item, Upload
from app.service import InferenceService
from app.worklist import LONGEST, Row, Worklist, chosen, orders, predicted, read_rows
from cxr_mm.core.errors import CancelledError, InputError, LogError
from cxr_mm.core.prediction import FindingPrediction, Prediction
from cxr_mm.core.progress import Progress
from cxr_mm.core.task import load_task
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.studies import BadRow
from cxr_mm.inference.predictor import Predictor
from cxr_mm.inference.suspicion import ANY
from cxr_mm.inference.worklist import Wanted
from cxr_mm.prediction_log import open_log


@pytest.fixture(scope="module")
def images(pipeline):
    """Paths of 20 images of the task."""
    frame = load_manifest(pipeline.paths, pipeline.task).frame
    return [Path(path) for path in frame["image_path"].dropna().head(20)]


def given(images=(), table=None, refused=()):
    """An upload; images: name → path."""
    return Upload(tuple(Item(*image) for image in dict(images).items()), table, tuple(refused))


def test_columns_have_the_names_that_the_task_gives_them(csv):
    icu = load_task("icu")
    options = {"study_column": "Fall", "image_column": "Bild"}
    source = icu.source.model_copy(update={"kind": "manifest_csv", "options": options})
    own = icu.model_copy(update={"source": source})
    rows, ignored = read_rows(csv("Fall;Bild;age;Zimmer", "7;a.png;63;12"), own)
    assert rows[0]["study_id"] == "7"
    assert rows[0]["image_path"] == "a.png"
    assert ignored == ("Zimmer",)


@pytest.fixture
def csv(tmp_path):
    """Writes rows as a CSV and gives it as it would be handed in."""

    def write(*lines):
        path = tmp_path / "0"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
        return Item("rows.csv", path)

    return write


def said(found):
    return {row.prediction.study_id: row.prediction for row in found.rows}


def reasons(found):
    return {row.study_id: row.reason for row in found.bad}


def test_images_alone_are_answered_as_each_would_be(service, images):
    found = predicted(service, given((f"in/{k}.png", path) for k, path in enumerate(images)))
    assert list(said(found)) == [f"in/{k}.png" for k in range(20)]
    assert found.bad == ()
    for row, path in zip(found.rows, images, strict=True):
        alone = service.predictor.predict(service.study(str(path), {}, None))
        assert row.prediction.modalities == ("image",)
        for batched, single in zip(row.prediction.findings, alone.findings, strict=True):
            assert batched.probability == pytest.approx(single.probability, abs=1e-4)
        assert row.thumbnail.dtype == np.uint8
        assert max(row.thumbnail.shape) <= LONGEST
        assert row.thumbnail.ndim == 2


def test_a_row_and_its_image_go_together_by_path_or_last_part_or_study_id(service, images, csv):
    names = ["in/a.png", "in/b.png", "in/c.dcm", "d.png", "e"]
    table = csv(
        "study_id,image_path,note",
        "s1,in/a.png,Fever.",
        "s2,elsewhere\\b.png,Fever.",
        "c,,Fever.",
        "d.png,,Fever.",
        "s5,,Fever.",
    )
    found = predicted(service, given(zip(names, images, strict=False), table))
    used = {study: answer.modalities for study, answer in said(found).items()}
    both = ("image", "note")
    assert used == {
        "s1": both,
        "s2": both,
        "c": both,
        "d.png": both,
        "s5": ("note",),
        "e": ("image",),
    }


def test_a_row_is_answered_as_the_form_would_answer_it(service, images, csv):
    number = next(f for f in service.task.clinical if f.type == "number")
    middle = (number.minimum + number.maximum) / 2
    header = f"image_path,patient_id,note,{number.name},colour,finding"
    found = predicted(
        service, given([("a.png", images[0])], csv(header, f"a.png,p,Fever,{middle},red,1"))
    )
    alone = service.predictor.predict(service.study(str(images[0]), {number.name: middle}, "Fever"))
    (answer,) = said(found).values()
    assert answer.modalities == ("image", "tabular", "note")
    for batched, single in zip(answer.findings, alone.findings, strict=True):
        assert batched.probability == pytest.approx(single.probability, abs=1e-4)
    assert found.ignored == ("colour", "finding")


def test_images_of_one_last_part_are_not_guessed_between(service, images, csv):
    table = csv("study_id,image_path,note", "s1,x/a.png,Fever.")
    found = predicted(service, given([("in/a.png", images[0]), ("out/a.png", images[1])], table))
    assert set(said(found)) == {"in/a.png", "out/a.png"}
    assert "image_path: x/a.png is not among the images" in reasons(found)["s1"]


def test_what_cannot_be_answered_is_listed_by_name_and_the_rest_is_done(
    service, images, csv, tmp_path
):
    text = tmp_path / "7"
    text.write_text("this is no image")
    number = next(f for f in service.task.clinical if f.type == "number")
    table = csv(
        f"study_id,image_path,note,{number.name}",
        "gone,gone.png,Fever.,",
        f"far,,,{number.maximum + 1}",
        f"long,,{'word ' * 10_000},",
        "empty,,,",
        "good,,Fever.,",
        "good,,Cough.,",
        ",,Fever.,",
    )
    refused = [BadRow("../x.png", "its path leads out of the zip file.")]
    found = predicted(service, given([("a.png", images[0]), ("b.png", text)], table, refused))
    assert set(said(found)) == {"good", "a.png"}
    bad = reasons(found)
    assert set(bad) == {"../x.png", "gone", "far", "long", "empty", "good", "row 7", "b.png"}
    assert "neither a PNG, a JPEG nor a DICOM" in bad["b.png"]
    assert str(tmp_path) not in str(bad)
    assert number.name in bad["far"]
    assert "out of range" in bad["far"]
    assert "too many" in bad["long"]


def test_a_picture_that_the_input_gate_refuses_is_listed(predictor, images, tmp_path):
    noise = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 255, (120, 100), dtype=np.uint8)
    Image.fromarray(pixels).save(noise)
    strict = InferenceService(Predictor(predictor.bundle), None)
    found = predicted(strict, given([("noise.png", noise), ("a.png", images[0])]))
    assert "does not look like an upright frontal chest" in reasons(found)["noise.png"]
    assert set(said(found)) | set(reasons(found)) == {"noise.png", "a.png"}
    assert "noise.png" not in said(found)


def test_nothing_given_is_an_error(service, csv):
    with pytest.raises(InputError, match="Nothing was given yet"):
        predicted(service, given())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["note", "Fever"], r"rows\.csv: neither study_id nor image_path is among its columns"),
        (["study_id,note"], "Nothing was given yet"),
        (["study_id", *map(str, range(501))], r"rows\.csv: it has more than 500 rows"),
        (["study_id" + "," * 1000], r"rows\.csv: it has more than 1000 columns"),
        (["study_id", "a,b,c"], r"rows\.csv: line 2 has 3 cells, the header 1"),
        ([""], r"rows\.csv: the file is empty"),
    ],
)
def test_a_csv_that_cannot_be_read_is_an_error_that_names_it(service, csv, lines, message):
    with pytest.raises(InputError, match=message) as caught:
        predicted(service, given(table=csv(*lines)))
    assert "/" not in str(caught.value)


def test_five_hundred_rows_are_not_too_many(service, csv):
    table = csv("study_id,note", *(f"s{k}," for k in range(499)), "last,Fever.")
    found = predicted(service, given(table=table))
    assert set(said(found)) == {"last"}
    assert len(found.bad) == 499


def test_it_tells_how_far_it_is_and_stops_when_told_to_with_nothing_logged(
    predictor, images, tmp_path
):
    message, requested = [], []
    progress = Progress(callback=lambda done, total: message.append((done, total)))
    upload = given((f"{k}.png", path) for k, path in enumerate(images))
    with open_log(f"sqlite:///{tmp_path}/log.db") as log:
        service = InferenceService(predictor, log)
        stopped = Progress(
            callback=progress.callback, cancelled=lambda: requested.append(1) or len(requested) > 1
        )
        with pytest.raises(CancelledError):
            predicted(service, upload, stopped)
        assert message == [(0, 20)]
        assert logged(tmp_path) == 0
        assert predicted(service, upload, progress).log_trouble == ""
    assert message == [(0, 20), (0, 20), (16, 20), (20, 20)]
    assert logged(tmp_path) == 20


def logged(folder):
    with sqlite3.connect(folder / "log.db") as database:
        return database.execute("select count(*) from predictions").fetchone()[0]


class BrokenLog:
    def append_many(self, answers, source="", *, once=False):
        raise LogError("the disk is full", field="log")


def test_a_log_that_fails_is_said_and_the_list_stays(predictor, images):
    found = predicted(InferenceService(predictor, BrokenLog()), given([("a.png", images[0])]))
    assert len(found.rows) == 1
    assert "the disk is full" in found.log_trouble


def answered(study_id, task, probabilities, threshold=0.5, warnings=(), unsure=()):
    findings = tuple(
        FindingPrediction(
            finding=finding.name,
            title=finding.title,
            probability=p,
            threshold=threshold,
            positive=p >= (threshold or 0.5),
            certainty="uncertain" if finding.name in unsure else None,
        )
        for finding, p in zip(task.findings, probabilities, strict=True)
    )
    values = {"task": task.name, "model": "m", "digest": "d", "modalities": ("image",)}
    return Row(Prediction(study_id=study_id, findings=findings, warnings=warnings, **values), None)


def shown(rows, task, **wanted):
    found = chosen(Worklist(tuple(rows), ()), task, Wanted(**wanted))
    return [row.prediction.study_id for row in found]


def test_most_suspicious_comes_first_and_equals_stay_in_order():
    task = load_task("synthetic")
    one, two = task.finding_names[:2]
    rest = [0.0] * (len(task.findings) - 2)
    rows = [
        answered("a", task, [0.3, 0.1, *rest], threshold=0.5),
        answered("b", task, [0.2, 0.1, *rest], threshold=0.1),
        answered("c", task, [0.1, 0.3, *rest], threshold=0.5),
    ]
    assert shown(rows, task) == ["b", "a", "c"]
    assert shown(rows, task, finding=one) == ["a", "b", "c"]
    assert shown(rows, task, finding=two) == ["c", "a", "b"]
    assert shown([answered("z", task, [0.3, 0.1, *rest], threshold=0.0), *rows], task)[0] == "z"
    assert orders(task)[0] == ("Any finding", ANY)


def test_of_classes_the_one_that_means_nothing_found_comes_last():
    task = load_task("pneumonia3")
    rows = [
        answered("well", task, [0.8, 0.1, 0.1], threshold=None),
        answered("ill", task, [0.2, 0.4, 0.4], threshold=None),
        answered("worse", task, [0.1, 0.6, 0.3], threshold=None),
    ]
    assert orders(task)[0] == ("Anything but: No pneumonia", ANY)
    assert shown(rows, task) == ["worse", "ill", "well"]
    assert shown(rows, task, positive=True) == ["worse"]
    assert shown(rows, task, finding="viral") == ["ill", "worse", "well"]
    assert shown(rows, task, finding="normal", positive=True) == ["well"]
    first, *others = task.findings
    unnamed = task.model_copy(
        update={"findings": (first.model_copy(update={"name": "other"}), *others)}
    )
    assert orders(unnamed)[0] == ("No pneumonia", "other")


def test_filters_leave_what_they_say():
    task = load_task("synthetic")
    one, two = task.finding_names[:2]
    rest = [0.0] * (len(task.findings) - 2)
    rows = [
        answered("Alpha", task, [0.9, 0.1, *rest], warnings=("small",)),
        answered("beta", task, [0.1, 0.8, *rest], unsure=(two,)),
        answered("gamma", task, [0.1, 0.1, *rest], unsure=(one,)),
    ]
    assert shown(rows, task, positive=True) == ["Alpha", "beta"]
    assert shown(rows, task, positive=True, finding=two) == ["beta"]
    assert shown(rows, task, uncertain=True) == ["beta", "gamma"]
    assert shown(rows, task, uncertain=True, finding=one) == ["gamma"]
    assert shown(rows, task, warned=True) == ["Alpha"]
    assert shown(rows, task, text=" ALPH ") == ["Alpha"]
    assert shown(rows, task, uncertain=True, positive=True) == ["beta"]
