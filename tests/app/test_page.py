"""Page: what its events answer, with a real bundle and no browser."""

import sqlite3

import numpy as np
import pytest
from PIL import Image

from app import page
from app.reading import ReadingRoom
from cxr_mm.errors import LogError
from cxr_mm.explain.watch import Watch
from cxr_mm.inference import Predictor, load_predictor
from cxr_mm.prediction_log import open_log


@pytest.fixture(scope="module")
def predictor(bundle_folder):
    """Takes noise for a film."""
    return load_predictor(bundle_folder, accept_any_film=True)


@pytest.fixture
def room(predictor):
    return ReadingRoom(predictor, None)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("films") / "film.png"
    pixels = np.random.default_rng(0).integers(0, 255, (120, 100), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def blank(room):
    return [""] * len(room.task.clinical)


def predict(room, path=None, note="", clinical=None):
    answer = page.on_predict(room, path, note, "", "", *(clinical or blank(room)))
    names = ("shown", "text", "why", "film", "clinical", "note", "general")
    return dict(zip(names, answer, strict=True))


def faults(answer):
    found = {n for n in ("film", "clinical", "general") if answer[n]["visible"]}
    return found | ({"note"} if "fault" in answer["note"]["value"] else set())


def test_a_film_alone_is_answered_shared_out_and_explained(room, film):
    answer = predict(room, str(film))
    assert not faults(answer)
    assert answer["why"]["visible"]
    said = answer["shown"].answer.prediction
    assert said.modalities == ("image",)
    for finding in said.findings:
        assert finding.title in answer["text"]
        shares, pixels, caption = page.on_explain(
            room, answer["shown"], finding.finding, "grad_cam"
        )
        assert "Film" in shares
        assert "Note" not in shares
        assert pixels.dtype == np.uint8
        assert "region" in caption.lower()


def test_a_picture_that_is_no_film_is_refused_beside_the_film(predictor, film):
    answer = predict(ReadingRoom(Predictor(predictor.bundle), None), str(film), note="Fever")
    assert faults(answer) == {"film"}
    assert "does not look like an upright frontal chest radiograph" in answer["film"]["value"]
    assert answer["shown"] is None


def test_a_film_that_is_doubted_is_answered_with_a_warning(room, film):
    assert "may be no upright frontal chest radiograph" in predict(room, str(film))["text"]


def test_a_note_alone_has_no_overlay(room):
    answer = predict(room, note="Fever and cough, short of breath.")
    assert answer["shown"].answer.prediction.modalities == ("note",)
    finding = room.task.finding_names[0]
    _, pixels, caption = page.on_explain(room, answer["shown"], finding, "grad_cam")
    assert pixels is None
    assert "No film" in caption


def test_features_and_words_are_explained_where_they_are_given(room, film):
    finding = room.task.finding_names[0]
    note = predict(room, note="Fever and <b>cough</b>.")
    bars, words = page.on_details(room, note["shown"], finding)
    assert bars == ""
    assert "cxr-word" in words
    assert "<b>" not in words
    assert page.on_details(room, predict(room, str(film))["shown"], finding) == ("", "")
    number = next(k for k, f in enumerate(room.task.clinical) if f.type == "number")
    values = blank(room)
    values[number] = (room.task.clinical[number].minimum + room.task.clinical[number].maximum) / 2
    bars, words = page.on_details(room, predict(room, clinical=values)["shown"], finding)
    assert room.task.clinical[number].title in bars
    assert words == ""


def test_a_slow_method_tells_how_far_it_is(room, film):
    shown, told = predict(room, str(film))["shown"], []
    watch = Watch(told=lambda done, total: told.append(done / total))
    pixels, caption = room.overlay(shown, room.task.finding_names[0], "occlusion", watch)
    assert pixels is not None
    assert "has not been measured" in caption
    assert told == sorted(told)
    assert told[-1] == 1


def test_what_the_page_keeps_gives_the_same_answer_as_the_film(room, predictor, film):
    shown = predict(room, str(film))["shown"]
    again = predictor.predict(shown.study)
    for kept, first in zip(again.findings, shown.answer.prediction.findings, strict=True):
        assert kept.probability == first.probability
    assert shown.study.image.shape == (room.bundle.size, room.bundle.size)
    assert shown.answer.study.image is None


def test_nothing_entered_is_said_and_nothing_is_shown(room):
    answer = predict(room)
    assert faults(answer) == {"general"}
    assert answer["shown"] is None
    assert not answer["why"]["visible"]


def test_a_text_file_as_film_is_refused_beside_the_film(room, tmp_path):
    path = tmp_path / "note<b>.png"
    path.write_text("this is no film")
    answer = predict(room, str(path), note="Fever.")
    assert faults(answer) == {"film"}
    assert "<b>" not in answer["film"]["value"]
    assert answer["shown"] is None
    pixels, fault = page.on_film(room, str(path))
    assert pixels is None
    assert fault["visible"]


def test_a_value_out_of_range_is_refused_by_its_label(room):
    position, feature = next((i, f) for i, f in enumerate(room.task.clinical) if f.type == "number")
    entered = blank(room)
    entered[position] = str(feature.maximum + 1)
    answer = predict(room, clinical=entered)
    assert faults(answer) == {"clinical"}
    assert feature.title in answer["clinical"]["value"]


def test_a_note_too_long_is_refused_beside_the_note(room):
    answer = predict(room, note="word " * 10_000)
    assert faults(answer) == {"note"}


def test_the_film_is_previewed_and_taken_away(room, film):
    pixels, fault = page.on_film(room, str(film))
    assert pixels.shape == (120, 100, 3)
    assert not fault["visible"]
    assert page.on_film(room, None)[0] is None


def test_predictions_are_logged_without_the_note(predictor, tmp_path):
    url = f"sqlite:///{tmp_path}/log.db"
    with open_log(url) as log:
        room = ReadingRoom(predictor, log)
        note = "Fever and a very particular cough."
        answer = page.on_predict(room, None, note, "", "study-7", *blank(room))
        assert answer[0].log_trouble == ""
    with sqlite3.connect(tmp_path / "log.db") as database:
        rows = database.execute("select * from predictions").fetchall()
    assert len(rows) == 1
    assert "particular" not in str(rows)
    assert "study-7" not in str(rows)


class BrokenLog:
    def append(self, answer):
        raise LogError("the disk is full", field="log")


def test_a_log_that_fails_is_said_above_the_numbers_and_the_answer_stays(predictor):
    answer = predict(ReadingRoom(predictor, BrokenLog()), note="Fever.")
    assert answer["shown"] is not None
    assert answer["text"].index("the disk is full") < answer["text"].index("cxr-bar")


def test_the_page_shows_its_notices_and_keeps_explaining_out_of_the_way(room):
    blocks = page.build(room)
    text = str(blocks.get_config_file()["components"])
    assert "Decision support for research only" in text
    assert ("SYNTHETIC" in text) == room.task.synthetic
    assert blocks.analytics_enabled is False
    lanes = {fn.concurrency_id for fn in blocks.fns.values() if fn.fn is not None}
    assert {"prediction", "explanation"} <= lanes
