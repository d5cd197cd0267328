"""Worklist tab: what its events answer, with a real bundle and no browser."""

import base64
import csv
import io
import re
import threading
import zipfile
from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app.service import InferenceService
from app.ui import worklist
from app.ui.worklist import PAGE, STOPPED
from app.worklist import Worklist
from cxr_mm.data.manifest import load_manifest

NAMES = ("state", "status", "shown", "undone", "part", "download", "table")


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    """Gradio's own folder."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


@pytest.fixture
def archive(pipeline, tmp_path):
    """Zips images under these names and gives the path."""
    frame = load_manifest(pipeline.paths, pipeline.task).frame
    images = [Path(path) for path in frame["image_path"].dropna().head(3)]

    def write(*names):
        path = tmp_path / "images.zip"
        with zipfile.ZipFile(path, "w") as created:
            for name, image in zip(names, images, strict=False):
                created.write(image, name)
        return str(path)

    return write


def predict(service, images=None, table=None, flag=None, finding="", only=(), text=None):
    answer = worklist.on_predict(
        service, flag or threading.Event(), images, table, finding, only, text
    )
    return dict(zip(NAMES, answer, strict=True))


def cells(path):
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_zip_file_and_a_csv_become_a_table_with_thumbnails_and_a_csv(
    service, uploads, archive, tmp_path
):
    table = tmp_path / "rows.csv"
    table.write_text("study_id,image_path,note,shoe_size\ns1,a.png,Fever.,44\ns2,gone.png,,\n")
    answer = predict(service, [archive("in/a.png", "in/b.png")], str(table))
    assert answer["shown"]["visible"]
    assert "Studies answered: 2. Files and rows that could not be: 1." in answer["status"]
    assert "shoe_size" in answer["status"]
    assert "gone.png is not among the images" in answer["undone"]
    assert answer["table"].count("<img ") == 2
    assert "<td>Image, Note</td>" in answer["table"]
    assert 'alt="Image of s1"' in answer["table"]
    assert "Studies 1 to 2 of 2" in answer["table"]
    assert not answer["part"]["visible"]
    picture = re.search(r'src="data:image/png;base64,([^"]+)"', answer["table"])[1]
    assert max(Image.open(io.BytesIO(base64.b64decode(picture))).size) <= 96
    written = cells(answer["download"])
    assert {row["study_id"] for row in written} == {"s1", "in/b.png"}
    assert uploads in Path(answer["download"]).parents


def test_nothing_from_outside_becomes_markup_or_a_formula(service, uploads, archive, tmp_path):
    names = ("<img src=x onerror=alert(1)>.png", "=HYPERLINK('x').png", "x' onload='y.png")
    table = tmp_path / "rows.csv"
    table.write_text("study_id,<i>column</i>,note\n<b>id</b>,1,\n@x,1,<u>Fever</u>\n")
    answer = predict(service, [archive(*names)], str(table))
    text = answer["table"] + answer["status"] + answer["undone"]
    assert not re.search(r"<(i|b|u|img src=x)[ >]", text)
    assert "' onload='" not in text
    assert escape(names[0]) in text
    assert "&lt;i&gt;column" in text
    assert "&lt;b&gt;id" in text
    assert {row["study_id"] for row in cells(answer["download"])} == {
        names[0],
        f"'{names[1]}",
        names[2],
        "'@x",
    }


def test_a_fault_is_said_and_takes_an_earlier_list_away(service, uploads, tmp_path):
    breaks = tmp_path / "images.zip"
    breaks.write_bytes(b"PK\x03\x04 cut short")
    for images in (None, [str(breaks)]):
        answer = predict(service, images)
        assert 'role="alert"' in answer["status"]
        assert answer["state"] is None
        assert not answer["shown"]["visible"]
        assert answer["table"] == answer["undone"] == ""
        assert answer["download"] is None


def test_stop_ends_what_runs_and_nothing_is_kept(service, uploads, archive):
    flag = worklist.on_start()[0]
    result, start, stop = worklist.on_stop(flag)
    assert STOPPED in result
    assert start["interactive"]
    assert not stop["interactive"]
    answer = predict(service, [archive("a.png")], flag=flag)
    assert answer["state"] is None
    assert STOPPED in answer["status"]


@pytest.fixture
def many(service, uploads, archive):
    """A list of 120 studies, s0 the most suspicious, of which a third are positive."""
    (row,) = predict(service, [archive("a.png")])["state"].rows
    rows = []
    for k in range(120):
        findings = tuple(
            f.model_copy(update={"probability": 1 - k / 120, "threshold": 0.5, "positive": k < 40})
            for f in row.prediction.findings
        )
        result = row.prediction.model_copy(update={"study_id": f"s{k}", "findings": findings})
        rows.append(replace(row, prediction=result))
    return Worklist(tuple(rows[::-1]), ())


def ids(table):
    return re.findall(r'<th scope="row">([^<]+)</th>', table)


def test_a_long_list_is_shown_in_parts(service, many):
    part, download, table = worklist.on_choose(service, many, "", [], "")
    assert [first for _, first in part["choices"]] == [0, 50, 100]
    assert part["visible"]
    assert ids(table) == [f"s{k}" for k in range(PAGE)]
    assert len(cells(download)) == 120
    assert len(table) < 1_000_000
    last = worklist.on_part(service, many, "", [], "", 100)
    assert ids(last) == [f"s{k}" for k in range(100, 120)]
    assert "Studies 101 to 120 of 120" in last


def test_choices_act_on_the_kept_list_and_ask_the_model_nothing(service, many):
    idle = InferenceService(service.predictor, None)
    idle._model = None
    part, download, table = worklist.on_choose(idle, many, "", ["positive"], "S3")
    expected = ["s3", *(f"s{k}" for k in range(30, 40))]
    assert ids(table) == expected
    assert [row["study_id"] for row in cells(download)] == expected
    assert not part["visible"]
    _, _, table = worklist.on_choose(idle, many, "", ["warned"], "no one")
    assert "No study is left" in table


def test_choices_without_a_list_show_nothing(service):
    assert worklist.on_choose(service, None, "", [], "")[1:] == (None, "")
    assert worklist.on_part(service, None, "", [], "", 0) == ""


@pytest.mark.parametrize(
    ("certainty", "words"),
    [
        ("uncertain", ">uncertain, positive: at or above the operating point of 50.0 %<"),
        ("present", ">positive: at"),
    ],
)
def test_positive_and_uncertain_are_said_in_words(service, uploads, many, certainty, words):
    row = many.rows[-1]
    (first, *others) = row.prediction.findings
    findings = (first.model_copy(update={"certainty": certainty}), *others)
    alone = replace(row, prediction=row.prediction.model_copy(update={"findings": findings}))
    table = worklist.on_choose(service, Worklist((alone,), ()), "", [], "")[2]
    assert words in table


def test_a_list_runs_in_a_queue_of_its_own_and_stop_cancels_it(service):
    with gr.Blocks(analytics_enabled=False) as blocks:
        worklist.build(service)
    queues = {fn.concurrency_id: fn.concurrency_limit for fn in blocks.fns.values() if fn.fn}
    assert queues["worklist"] == 1
    assert all(fn.api_visibility == "private" for fn in blocks.fns.values())
    (running,) = [k for k, fn in blocks.fns.items() if fn.concurrency_id == "worklist" and fn.fn]
    assert any(running in fn.cancels for fn in blocks.fns.values())


def test_a_thumbnail_keeps_the_images_aspect(service, uploads, tmp_path):
    image = tmp_path / "tall.png"
    pixels = np.random.default_rng(0).integers(0, 255, (200, 100), dtype=np.uint8)
    Image.fromarray(pixels).save(image)
    assert 'width="48" height="96"' in predict(service, [str(image)])["table"]
