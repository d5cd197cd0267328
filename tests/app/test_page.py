"""Page: what the events of its parts answer, with a real bundle and no browser."""

import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from app import compare_tab, entry, feedback_part, page, point_part, report_part, what_if_part, why
from app.reading import ReadingRoom
from cxr_mm.contracts.prediction import Reason
from cxr_mm.errors import LogError
from cxr_mm.explain.subject import Subject
from cxr_mm.explain.watch import Watch
from cxr_mm.inference import Predictor, load_predictor
from cxr_mm.prediction_log import open_log, open_spooled_log


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


def predict(room, path=None, note="", clinical=None, history=()):
    answer = entry.on_predict(room, history, path, note, "", "", *(clinical or blank(room)))
    names = ("shown", "history", "text", "film", "clinical", "note", "general")
    return dict(zip(names, answer, strict=True))


def explained(room, shown, finding, method, opacity=0.5):
    """Map, drawing and caption of the film, as they are in the end."""
    *_, last = why.on_film(room, shown, finding, method, opacity)
    return last[:3]


def with_a_number(room):
    """Values of the form with one number in the middle of its range; its feature."""
    at = next(k for k, f in enumerate(room.task.clinical) if f.type == "number")
    feature, values = room.task.clinical[at], blank(room)
    values[at] = (feature.minimum + feature.maximum) / 2
    return values, feature


def faults(answer):
    found = {n for n in ("film", "clinical", "general") if answer[n]["visible"]}
    return found | ({"note"} if "fault" in answer["note"]["value"] else set())


def test_a_film_alone_is_answered_shared_out_and_explained(room, film):
    answer = predict(room, str(film))
    assert not faults(answer)
    said = answer["shown"].answer.prediction
    assert said.modalities == ("image",)
    for finding in said.findings:
        assert finding.title in answer["text"]
        assert "Film" in why.on_rest(room, answer["shown"], finding.finding)[0]
        said, pixels, caption = explained(room, answer["shown"], finding.finding, "grad_cam")
        assert said.method == "grad_cam"
        assert pixels.dtype == np.uint8
        assert "region" in caption.lower()


def test_a_picture_that_is_no_film_is_refused_beside_the_film(predictor, film):
    answer = predict(ReadingRoom(Predictor(predictor.bundle), None), str(film), note="Fever")
    assert faults(answer) == {"film"}
    assert "does not look like an upright frontal chest radiograph" in answer["film"]["value"]
    assert answer["shown"] is None


def test_a_film_that_is_doubted_is_answered_with_a_warning(room, film):
    assert "may be no upright frontal chest radiograph" in predict(room, str(film))["text"]


def test_a_value_that_no_training_study_had_is_answered_with_a_warning(room):
    values, feature = with_a_number(room)
    values[room.task.clinical.index(feature)] = feature.maximum
    text = predict(room, clinical=values)["text"]
    assert text.index("trained on") < text.index("cxr-bar")


def test_a_note_alone_has_no_overlay(room):
    answer = predict(room, note="Fever and cough, short of breath.")
    assert answer["shown"].answer.prediction.modalities == ("note",)
    finding = room.task.finding_names[0]
    _, pixels, caption = explained(room, answer["shown"], finding, "grad_cam")
    assert pixels is None
    assert "No film" in caption


def test_features_and_words_are_explained_where_they_are_given(room, film):
    finding = room.task.finding_names[0]
    note = predict(room, note="Fever and <b>cough</b>.")
    _, bars, words = why.on_rest(room, note["shown"], finding)
    assert bars == ""
    assert "cxr-word" in words
    assert "<b>" not in words
    assert why.on_rest(room, predict(room, str(film))["shown"], finding)[1:] == ("", "")
    values, feature = with_a_number(room)
    _, bars, words = why.on_rest(room, predict(room, clinical=values)["shown"], finding)
    assert feature.title in bars
    assert words == ""


def test_each_part_says_how_far_it_can_be_believed(room, film):
    finding, shown = room.task.finding_names[0], predict(room, str(film), note="Fever.")["shown"]
    unmeasured = "has not been measured"
    assert unmeasured in explained(room, shown, finding, "grad_cam")[2]
    assert unmeasured in why.on_rest(room, shown, finding)[2]


def test_a_slow_method_tells_how_far_it_is(room, film):
    shown, told = predict(room, str(film))["shown"], []
    watch = Watch(told=lambda done, total: told.append(done / total))
    assert room.explained(shown, room.task.finding_names[0], "occlusion", watch) is not None
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_slow_method_stops_when_it_is_told_to(room, film):
    shown, finding = predict(room, str(film))["shown"], room.task.finding_names[0]
    asked = []

    def progress(share, desc):
        asked.append(share)
        why.on_stop(shown)

    first, last = why.on_film(room, shown, finding, "shap_image", 0.5, progress)
    said, pixels, caption, _ = last
    assert (first[3]["visible"], last[3]["visible"]) == (True, False)
    assert said is None
    assert pixels is not None
    assert why.STOPPED in caption
    assert len(asked) == 1
    assert explained(room, shown, finding, "grad_cam")[0] is not None


def test_opacity_changes_the_drawing_and_not_the_map(room, film):
    shown, finding = predict(room, str(film))["shown"], room.task.finding_names[0]
    said, pixels, _ = explained(room, shown, finding, "eigen_cam")
    fainter = why.on_opacity(room, shown, said, 0.0)
    assert fainter.shape == pixels.shape
    assert not np.array_equal(fainter, pixels)
    np.testing.assert_array_equal(why.on_opacity(room, shown, said, 0.5), pixels)


def test_what_the_page_keeps_gives_the_same_answer_as_the_film(room, predictor, film):
    shown = predict(room, str(film))["shown"]
    again = predictor.predict(shown.study)
    for kept, first in zip(again.findings, shown.answer.prediction.findings, strict=True):
        assert kept.probability == first.probability
    assert shown.study.image.shape == (room.bundle.size, room.bundle.size)
    assert shown.answer.study.image is None


@pytest.mark.parametrize("reason", list(Reason.__args__))
def test_another_operating_point_needs_no_new_prediction(room, reason):
    shown = predict(room, note="Fever and cough.")["shown"]
    moved, text = point_part.on_reason(room, shown, reason)
    before, after = shown.answer.prediction, moved.answer.prediction
    for old, new in zip(before.findings, after.findings, strict=True):
        point = room.bundle.operating_point(new.finding, after.modalities, reason)
        assert new.probability == old.probability
        assert new.threshold == point.threshold
        assert new.positive == (new.probability >= point.threshold)
        assert f"sensitivity {point.sensitivity:.2f}" in text


def test_a_feature_that_is_moved_gives_what_the_model_says_of_that_value(room, predictor):
    values, feature = with_a_number(room)
    shown = predict(room, clinical=values, note="Fever.")["shown"]
    now, said = what_if_part.on_move(room, feature.name, shown, {}, feature.minimum)
    assert now == {feature.name: feature.minimum}
    clinical = {**shown.study.clinical, feature.name: feature.minimum}
    expected = predictor.predict(replace(shown.study, clinical=clinical))
    for found in expected.findings:
        assert room.moved(shown, now)[found.finding] == pytest.approx(found.probability, abs=1e-6)
    assert f"{feature.title} were {feature.minimum:g}" in said


def test_two_features_can_be_moved_and_go_back(room):
    shown = predict(room, note="Fever.")["shown"]
    first, second = room.task.clinical[:2]
    start = what_if_part.on_answer(room, shown)
    assert len(start) == 2 + len(room.task.clinical)
    value = {f.name: f.categories[0] if f.categories else f.maximum for f in (first, second)}
    now, _ = what_if_part.on_move(room, first.name, shown, {}, value[first.name])
    now, said = what_if_part.on_move(room, second.name, shown, now, value[second.name])
    assert set(now) == {first.name, second.name}
    assert " and " in said
    assert what_if_part.on_answer(room, shown)[0] == {}


def test_answer_and_shares_take_one_embedding_of_the_film(room, film):
    seen = []
    hook = room.bundle.image_encoder.register_forward_hook(lambda *_: seen.append(1))
    shown = predict(room, str(film), note="Fever.")["shown"]
    hook.remove()
    assert len(seen) == 1
    np.testing.assert_allclose(
        shown.subject.logits, Subject(room.bundle, shown.subject.study).logits
    )


def test_nothing_entered_is_said_and_nothing_is_shown(room):
    answer = predict(room)
    assert faults(answer) == {"general"}
    assert answer["shown"] is None


def test_a_text_file_as_film_is_refused_beside_the_film(room, tmp_path):
    path = tmp_path / "note<b>.png"
    path.write_text("this is no film")
    answer = predict(room, str(path), note="Fever.")
    assert faults(answer) == {"film"}
    assert "<b>" not in answer["film"]["value"]
    assert answer["shown"] is None
    kept, *_, fault = entry.on_film(room, str(path))
    assert kept is None
    assert fault["visible"]


def test_a_value_out_of_range_is_refused_by_its_label(room):
    values, feature = with_a_number(room)
    values[room.task.clinical.index(feature)] = str(feature.maximum + 1)
    answer = predict(room, clinical=values)
    assert faults(answer) == {"clinical"}
    assert feature.title in answer["clinical"]["value"]


def test_a_note_too_long_is_refused_beside_the_note(room):
    answer = predict(room, note="word " * 10_000)
    assert faults(answer) == {"note"}


def test_the_film_is_previewed_and_taken_away(room, film):
    _, pixels, *_, fault = entry.on_film(room, str(film))
    assert pixels.shape[:2] == (120, 100)
    assert not fault["visible"]
    assert entry.on_film(room, None)[1] is None


def test_predictions_are_logged_without_the_note(predictor, tmp_path):
    url = f"sqlite:///{tmp_path}/log.db"
    with open_log(url) as log:
        room = ReadingRoom(predictor, log)
        note = "Fever and a very particular cough."
        answer = entry.on_predict(room, [], None, note, "", "study-7", *blank(room))
        assert answer[0].log_trouble == ""
    with sqlite3.connect(tmp_path / "log.db") as database:
        rows = database.execute("select * from predictions").fetchall()
    assert len(rows) == 1
    assert "particular" not in str(rows)
    assert "study-7" not in str(rows)


class BrokenLog:
    def append_many(self, answers):
        raise LogError("the disk is full", field="log")


def test_a_log_that_fails_is_said_above_the_numbers_and_the_answer_stays(predictor):
    answer = predict(ReadingRoom(predictor, BrokenLog()), note="Fever.")
    assert answer["shown"] is not None
    assert answer["text"].index("the disk is full") < answer["text"].index("cxr-bar")


def test_while_the_database_is_away_answers_are_kept_and_the_page_says_so(predictor, tmp_path):
    with open_spooled_log(f"sqlite:///{tmp_path}/log.db") as log:
        room = ReadingRoom(predictor, log)
        assert predict(room, note="Fever.")["shown"].log_trouble == ""
        for path in tmp_path.glob("log.db*"):
            if path.is_file():
                path.unlink()
        (tmp_path / "log.db").mkdir()
        answer = predict(room, note="Cough.")
        assert log.waiting == 1
        assert answer["shown"].log_trouble == log.trouble != ""
    assert answer["text"].index('role="alert"') < answer["text"].index("cxr-bar")


def test_feedback_is_kept_with_the_study(predictor, tmp_path):
    with open_log(f"sqlite:///{tmp_path}/log.db") as log:
        room = ReadingRoom(predictor, log)
        shown = predict(room, note="Fever.")["shown"]
        labels = ["not sure"] * len(room.task.findings)
        agreed = feedback_part.on_send(room, shown, "agree", "clear", *labels)
        assert feedback_part.THANKS in agreed
        kept = {o.finding: o for o in log.read_outcomes()}
        for found in shown.answer.prediction.findings:
            assert kept[found.finding].label == int(found.positive)
            assert kept[found.finding].comment == "clear"
        assert {o.study_hash for o in kept.values()} == log.study_hashes()
        assert "label" in feedback_part.on_send(room, shown, "disagree", "", *labels)
        first = shown.answer.prediction.findings[0]
        labels[0] = "absent" if first.positive else "present"
        assert feedback_part.THANKS in feedback_part.on_send(room, shown, "disagree", "", *labels)
        newest = {o.finding: o.label for o in log.read_outcomes()}
        assert newest[first.finding] == int(not first.positive)


def test_feedback_without_an_answer_is_refused(room):
    labels = ["not sure"] * len(room.task.findings)
    assert "Predict first" in feedback_part.on_send(room, None, "agree", "", *labels)


def test_the_report_is_a_file_with_what_was_typed_and_no_note(room, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    shown = predict(room, note="A very particular cough.")["shown"]
    finding = room.task.finding_names[0]
    given = room, shown, finding, "grad_cam"
    file, fault = report_part.on_make(*given, False, "Dr <Ada>", None)
    assert fault == ""
    text = next(tmp_path.rglob("*.html")).read_text(encoding="utf-8")
    assert file["value"].startswith(str(tmp_path))
    assert "Dr &lt;Ada&gt;" in text
    assert "particular" not in text
    assert "cut" not in report_part.on_make(*given, True, "", "")[1]
    assert any(
        "particular" in path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")
    )
    assert "characters" in report_part.on_make(*given, False, "x" * 200, "")[1]


def test_the_newest_two_studies_are_compared(room, film):
    history = predict(room, note="Fever.")["history"]
    history = predict(room, str(film), history=history)["history"]
    first, second, drawn = compare_tab.on_answer(room, history)
    assert (first["value"], second["value"]) == (1, 0)
    text = compare_tab.on_choose(room, history, 1, 0)
    assert text == drawn
    assert text.count("<section>") == 2
    assert text.count("<img") == 1
    assert "points" in text
    assert "points" not in compare_tab.on_choose(room, history, 1, None)
    assert compare_tab.name_of(1, history[1]) in compare_tab.on_choose(room, history, None, 1)


def test_the_page_remembers_a_dozen_studies(room):
    history = []
    for _ in range(entry.HISTORY + 2):
        history = predict(room, note="Fever.", history=history)["history"]
    assert len(history) == entry.HISTORY


def test_the_page_shows_its_notices_and_keeps_explaining_out_of_the_way(room):
    blocks = page.build(room, others=[("Another <model>", "/other/")])
    text = str(blocks.get_config_file()["components"])
    assert "Decision support for research only" in text
    assert ("SYNTHETIC" in text) == room.task.synthetic
    assert "Another &lt;model&gt;" in text
    assert blocks.analytics_enabled is False
    lanes = {fn.concurrency_id for fn in blocks.fns.values() if fn.fn is not None}
    assert {"prediction", "explanation", "worklist"} <= lanes
