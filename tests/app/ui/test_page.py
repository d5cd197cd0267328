"""Page: what the events of its parts answer, with a real bundle and no browser."""

import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from app import calls
from app.service import InferenceService
from app.ui import answer as point_part
from app.ui import case_report, compare, explanation, feedback, page, study_form
from cxr_mm.core.errors import LogError
from cxr_mm.core.prediction import Reason
from cxr_mm.core.progress import Progress
from cxr_mm.explain.subject import Subject
from cxr_mm.inference.predictor import Predictor
from cxr_mm.models.input_gate import NO_GATE
from cxr_mm.prediction_log import open_log, open_spooled_log


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "image.png"
    pixels = np.random.default_rng(0).integers(0, 255, (120, 100), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def blank(service):
    return [""] * len(service.task.clinical)


def predict(service, path=None, note="", clinical=None, history=()):
    answer = study_form.on_predict(
        service, history, path, note, "", "", "", *(clinical or blank(service))
    )
    names = ("shown", "history", "text", "image", "clinical", "note", "general")
    return dict(zip(names, answer, strict=True))


def explained(service, shown, finding, method, opacity=0.5):
    """Map, drawing and caption of the image, as they are in the end."""
    *_, last = explanation.on_image(service, shown, finding, method, opacity)
    return last[:3]


def with_a_number(service):
    """Values of the form with one number in the middle of its range; its feature."""
    at = next(k for k, f in enumerate(service.task.clinical) if f.type == "number")
    feature, values = service.task.clinical[at], blank(service)
    values[at] = (feature.minimum + feature.maximum) / 2
    return values, feature


def faults(answer):
    found = {n for n in ("image", "clinical", "general") if answer[n]["visible"]}
    return found | ({"note"} if "fault" in answer["note"]["value"] else set())


def test_a_missing_input_gate_is_said_by_page_and_api(service, image):
    gated = calls.predict(service, str(image), None, None, "", "")
    assert NO_GATE not in gated["warnings"]
    assert NO_GATE not in point_part.header(service.bundle)
    bundle = replace(service.bundle, gate=None)
    ungated = InferenceService(Predictor(bundle), None)
    assert calls.predict(ungated, str(image), None, None, "", "")["warnings"][0] == NO_GATE
    assert NO_GATE in predict(ungated, str(image))["text"]
    assert f"{NO_GATE}." in point_part.header(bundle)


def test_a_image_alone_is_answered_shared_out_and_explained(service, image):
    answer = predict(service, str(image))
    assert not faults(answer)
    said = answer["shown"].answer.prediction
    assert said.modalities == ("image",)
    for finding in said.findings:
        assert finding.title in answer["text"]
        assert "Image" in explanation.on_details(service, answer["shown"], finding.finding)[0]
        said, pixels, caption = explained(service, answer["shown"], finding.finding, "grad_cam")
        assert said.method == "grad_cam"
        assert pixels.dtype == np.uint8
        assert "region" in caption.lower()


def test_a_picture_that_is_no_image_is_refused_beside_the_image(predictor, image):
    answer = predict(InferenceService(Predictor(predictor.bundle), None), str(image), note="Fever")
    assert faults(answer) == {"image"}
    assert "does not look like an upright frontal chest radiograph" in answer["image"]["value"]
    assert answer["shown"] is None


def test_a_image_that_is_doubted_is_answered_with_a_warning(service, image):
    assert "may be no upright frontal chest radiograph" in predict(service, str(image))["text"]


def test_a_value_that_no_training_study_had_is_answered_with_a_warning(service):
    values, feature = with_a_number(service)
    values[service.task.clinical.index(feature)] = feature.maximum
    text = predict(service, clinical=values)["text"]
    assert text.index("trained on") < text.index("cxr-bar")


def test_a_note_alone_has_no_overlay(service):
    answer = predict(service, note="Fever and cough, short of breath.")
    assert answer["shown"].answer.prediction.modalities == ("note",)
    finding = service.task.finding_names[0]
    _, pixels, caption = explained(service, answer["shown"], finding, "grad_cam")
    assert pixels is None
    assert "No image" in caption


def test_features_and_words_are_explained_where_they_are_given(service, image):
    finding = service.task.finding_names[0]
    note = predict(service, note="Fever and <b>cough</b>.")
    _, bars, words = explanation.on_details(service, note["shown"], finding)
    assert bars == ""
    assert "cxr-word" in words
    assert "<b>" not in words
    assert explanation.on_details(service, predict(service, str(image))["shown"], finding)[1:] == (
        "",
        "",
    )
    values, feature = with_a_number(service)
    _, bars, words = explanation.on_details(
        service, predict(service, clinical=values)["shown"], finding
    )
    assert feature.title in bars
    assert words == ""


def test_each_part_says_how_far_it_can_be_believed(service, image):
    finding, shown = (
        service.task.finding_names[0],
        predict(service, str(image), note="Fever.")["shown"],
    )
    unmeasured = "has not been measured"
    assert unmeasured in explained(service, shown, finding, "grad_cam")[2]
    assert unmeasured in explanation.on_details(service, shown, finding)[2]


def test_a_slow_method_tells_how_far_it_is(service, image):
    shown, told = predict(service, str(image))["shown"], []
    watch = Progress(callback=lambda done, total: told.append(done / total))
    assert service.explained(shown, service.task.finding_names[0], "occlusion", watch) is not None
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_slow_method_stops_when_it_is_told_to(service, image):
    shown, finding = predict(service, str(image))["shown"], service.task.finding_names[0]
    asked = []

    def progress(share, desc):
        asked.append(share)
        explanation.on_stop(shown)

    first, last = explanation.on_image(service, shown, finding, "shap_image", 0.5, progress)
    said, pixels, caption, _ = last
    assert (first[3]["visible"], last[3]["visible"]) == (True, False)
    assert said is None
    assert pixels is not None
    assert explanation.STOPPED in caption
    assert len(asked) == 1
    assert explained(service, shown, finding, "grad_cam")[0] is not None


def test_opacity_changes_the_drawing_and_not_the_map(service, image):
    shown, finding = predict(service, str(image))["shown"], service.task.finding_names[0]
    said, pixels, _ = explained(service, shown, finding, "eigen_cam")
    fainter = explanation.on_opacity(service, shown, said, 0.0)
    assert fainter.shape == pixels.shape
    assert not np.array_equal(fainter, pixels)
    np.testing.assert_array_equal(explanation.on_opacity(service, shown, said, 0.5), pixels)


def test_what_the_page_keeps_gives_the_same_answer_as_the_image(service, predictor, image):
    shown = predict(service, str(image))["shown"]
    assert shown.subject.batch.image.shape[-2:] == (service.bundle.size, service.bundle.size)
    square = (shown.subject.batch.image[0, 0].numpy() + 1) / 2
    again = predictor.predict(replace(shown.study, image=square))
    for kept, first in zip(again.findings, shown.answer.prediction.findings, strict=True):
        assert kept.probability == first.probability
    assert shown.study.image is None


@pytest.mark.parametrize("reason", list(Reason.__args__))
def test_another_operating_point_needs_no_new_prediction(service, reason):
    shown = predict(service, note="Fever and cough.")["shown"]
    moved, text = point_part.on_reason(service, shown, reason)
    before, after = shown.answer.prediction, moved.answer.prediction
    for old, new in zip(before.findings, after.findings, strict=True):
        point = service.bundle.operating_point(new.finding, after.modalities, reason)
        assert new.probability == old.probability
        assert new.threshold == point.threshold
        assert new.positive == (new.probability >= point.threshold)
        assert f"sensitivity {point.sensitivity:.2f}" in text


def test_a_feature_that_is_moved_gives_what_the_model_says_of_that_value(service, predictor):
    values, feature = with_a_number(service)
    shown = predict(service, clinical=values, note="Fever.")["shown"]
    now, said = explanation.on_move(service, feature.name, shown, {}, feature.minimum)
    assert now == {feature.name: feature.minimum}
    clinical = {**shown.study.clinical, feature.name: feature.minimum}
    expected = predictor.predict(replace(shown.study, clinical=clinical))
    for found in expected.findings:
        assert service.moved(shown, now)[found.finding] == pytest.approx(
            found.probability, abs=1e-6
        )
    assert f"{feature.title} were {feature.minimum:g}" in said


def test_two_features_can_be_moved_and_go_back(service):
    shown = predict(service, note="Fever.")["shown"]
    first, second = service.task.clinical[:2]
    start = explanation.on_answer(service, shown)
    assert len(start) == 2 + len(service.task.clinical)
    value = {f.name: f.categories[0] if f.categories else f.maximum for f in (first, second)}
    now, _ = explanation.on_move(service, first.name, shown, {}, value[first.name])
    now, said = explanation.on_move(service, second.name, shown, now, value[second.name])
    assert set(now) == {first.name, second.name}
    assert " and " in said
    assert explanation.on_answer(service, shown)[0] == {}


def test_answer_and_shares_take_one_embedding_of_the_image(service, image):
    seen = []
    hook = service.bundle.image_encoder.register_forward_hook(lambda *_: seen.append(1))
    shown = predict(service, str(image), note="Fever.")["shown"]
    hook.remove()
    assert len(seen) == 1
    square = (shown.subject.batch.image[0, 0].numpy() + 1) / 2
    whole = Subject(service.bundle, replace(shown.study, image=square))
    np.testing.assert_allclose(shown.subject.logits, whole.logits)


def test_nothing_entered_is_said_and_nothing_is_shown(service):
    answer = predict(service)
    assert faults(answer) == {"general"}
    assert answer["shown"] is None


def test_a_text_file_as_image_is_refused_beside_the_image(service, tmp_path):
    path = tmp_path / "note<b>.png"
    path.write_text("this is no image")
    answer = predict(service, str(path), note="Fever.")
    assert faults(answer) == {"image"}
    assert "<b>" not in answer["image"]["value"]
    assert answer["shown"] is None
    kept, *_, fault = study_form.on_image(service, str(path))
    assert kept is None
    assert fault["visible"]


def test_a_value_out_of_range_is_refused_by_its_label(service):
    values, feature = with_a_number(service)
    values[service.task.clinical.index(feature)] = str(feature.maximum + 1)
    answer = predict(service, clinical=values)
    assert faults(answer) == {"clinical"}
    assert feature.title in answer["clinical"]["value"]


def test_a_note_too_long_is_refused_beside_the_note(service):
    answer = predict(service, note="word " * 10_000)
    assert faults(answer) == {"note"}


def test_the_image_is_previewed_and_taken_away(service, image):
    _, pixels, *_, fault = study_form.on_image(service, str(image))
    assert pixels.shape[:2] == (120, 100)
    assert not fault["visible"]
    assert study_form.on_image(service, None)[1] is None


def test_predictions_are_logged_without_the_note(predictor, tmp_path):
    url = f"sqlite:///{tmp_path}/log.db"
    with open_log(url) as log:
        service = InferenceService(predictor, log)
        note = "Fever and a very particular cough."
        answer = study_form.on_predict(
            service, [], None, note, "", "study-7", "patient-4711", *blank(service)
        )
        assert answer[0].log_trouble == ""
        assert log.read_window(service.task.name)[0].patient_hash == log.hash_id(
            "patient-4711", "patient"
        )
    with sqlite3.connect(tmp_path / "log.db") as database:
        rows = database.execute("select * from predictions").fetchall()
    assert len(rows) == 1
    assert "particular" not in str(rows)
    assert "study-7" not in str(rows)
    assert "patient-4711" not in str(rows)


class BrokenLog:
    def append_many(self, answers, source="", *, once=False):
        raise LogError("the disk is full", field="log")


def test_a_log_that_fails_is_said_above_the_numbers_and_the_answer_stays(predictor):
    answer = predict(InferenceService(predictor, BrokenLog()), note="Fever.")
    assert answer["shown"] is not None
    assert answer["text"].index("the disk is full") < answer["text"].index("cxr-bar")


def test_while_the_database_is_away_answers_are_kept_and_the_page_says_so(predictor, tmp_path):
    with open_spooled_log(f"sqlite:///{tmp_path}/log.db") as log:
        service = InferenceService(predictor, log)
        assert predict(service, note="Fever.")["shown"].log_trouble == ""
        for path in tmp_path.glob("log.db*"):
            if path.is_file():
                path.unlink()
        (tmp_path / "log.db").mkdir()
        answer = predict(service, note="Cough.")
        assert log.waiting == 1
        assert answer["shown"].log_trouble == log.trouble != ""
    assert answer["text"].index('role="alert"') < answer["text"].index("cxr-bar")


def test_feedback_is_kept_with_the_study(predictor, tmp_path):
    with open_log(f"sqlite:///{tmp_path}/log.db") as log:
        service = InferenceService(predictor, log)
        shown = predict(service, note="Fever.")["shown"]
        labels = ["not sure"] * len(service.task.findings)
        agreed = feedback.on_send(service, shown, "agree", "clear", *labels)
        assert feedback.THANKS in agreed
        kept = {o.finding: o for o in log.read_outcomes()}
        for found in shown.answer.prediction.findings:
            assert kept[found.finding].label == int(found.positive)
            assert kept[found.finding].comment == "clear"
        assert {o.study_hash for o in kept.values()} == log.study_hashes()
        assert "label" in feedback.on_send(service, shown, "disagree", "", *labels)
        first = shown.answer.prediction.findings[0]
        labels[0] = "absent" if first.positive else "present"
        assert feedback.THANKS in feedback.on_send(service, shown, "disagree", "", *labels)
        newest = {o.finding: o.label for o in log.read_outcomes()}
        assert newest[first.finding] == int(not first.positive)


def test_feedback_without_an_answer_is_refused(service):
    labels = ["not sure"] * len(service.task.findings)
    assert "Predict first" in feedback.on_send(service, None, "agree", "", *labels)


def test_the_report_is_a_file_with_what_was_typed_and_no_note(service, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    shown = predict(service, note="A very particular cough.")["shown"]
    finding = service.task.finding_names[0]
    given = service, shown, finding, "grad_cam"
    file, fault = case_report.on_make(*given, False, "Dr <Ada>", None)
    assert fault == ""
    text = next(tmp_path.rglob("*.html")).read_text(encoding="utf-8")
    assert file["value"].startswith(str(tmp_path))
    assert "Dr &lt;Ada&gt;" in text
    assert "particular" not in text
    assert "cut" not in case_report.on_make(*given, True, "", "")[1]
    assert any(
        "particular" in path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")
    )
    assert "characters" in case_report.on_make(*given, False, "x" * 200, "")[1]


def test_the_newest_two_studies_are_compared(service, image):
    history = predict(service, note="Fever.")["history"]
    history = predict(service, str(image), history=history)["history"]
    first, second, drawn = compare.on_answer(service, history)
    assert (first["value"], second["value"]) == (1, 0)
    text = compare.on_choose(service, history, 1, 0)
    assert text == drawn
    assert text.count("<section>") == 2
    assert text.count("<img") == 1
    assert "points" in text
    assert "points" not in compare.on_choose(service, history, 1, None)
    assert compare.name_of(1, history[1]) in compare.on_choose(service, history, None, 1)


def test_the_page_remembers_a_dozen_studies(service):
    history = []
    for _ in range(study_form.HISTORY + 2):
        history = predict(service, note="Fever.", history=history)["history"]
    assert len(history) == study_form.HISTORY


def test_the_page_shows_its_notices_and_keeps_explaining_out_of_the_way(service):
    blocks = page.build(service, others=[("Another <model>", "/other/")])
    text = str(blocks.get_config_file()["components"])
    assert "Decision support for research only" in text
    assert ("SYNTHETIC" in text) == service.task.synthetic
    assert "Another &lt;model&gt;" in text
    assert blocks.analytics_enabled is False
    queues = {fn.concurrency_id for fn in blocks.fns.values() if fn.fn is not None}
    assert {"prediction", "explanation", "worklist"} <= queues
