"""Requests that got no prediction are in the log, without what was typed."""

from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from app.archive import Item, Upload
from app.service import InferenceService, logging_failed_requests
from app.worklist import predicted
from cxr_mm.core.errors import CancelledError, ClinicalError, InputError, LogError, RadiographError
from cxr_mm.core.study import Study
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.prediction_log import open_log


@pytest.fixture
def log(tmp_path):
    with open_log(f"sqlite:///{tmp_path / 'log.db'}", site="north") as opened:
        yield opened


@pytest.fixture
def service(bundle_folder, log):
    return InferenceService(load_predictor(bundle_folder), log)


def events(log):
    return [(e.kind, e.field) for e in log.read_events("synthetic")]


def test_a_rejected_image_a_bad_value_and_an_unreadable_file_are_kept(service, log, tmp_path):
    noise = np.random.default_rng(0).random((80, 64), dtype=np.float32)
    with pytest.raises(RadiographError):
        service.answer(Study("patient Miller", image=noise))
    with pytest.raises(ClinicalError):
        service.study(None, {"age": "Miller"}, None)
    text = tmp_path / "Miller.png"
    text.write_text("no image")
    with pytest.raises(RadiographError):
        service.study(str(text), {}, None)
    assert events(log) == [("rejected_image", "image"), ("bad_input", "age"), ("bad_input", "")]
    known = {(event.digest, event.site) for event in log.read_events("synthetic")}
    assert known == {(service.digest, "north")}
    assert "Miller" not in str(log.read_events("synthetic"))


def test_an_empty_form_is_no_failed_request(service, log):
    with pytest.raises(InputError, match="Nothing was given"):
        service.study(None, {}, "")
    assert events(log) == []


def test_a_fault_of_the_program_is_a_failure_and_a_stop_is_nothing(service, log):
    for error in (ZeroDivisionError("Miller"), CancelledError("stopped")):
        with (
            pytest.raises(type(error)),
            logging_failed_requests(log, service.task, "d" * 64, "page", predicting=True),
        ):
            raise error
    assert events(log) == [("failure", "")]


def test_a_log_that_is_away_hides_no_error(service, log, monkeypatch):
    def away(_):
        raise LogError("away")

    monkeypatch.setattr(log, "add_events", away)
    with pytest.raises(ClinicalError):
        service.study(None, {"age": -1}, None)


def test_rejected_images_of_a_worklist_are_kept(service, log, tmp_path):
    images = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (90, 80), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        images.append(Item(path.name, path))
    before = datetime.now(UTC)
    found = predicted(service, Upload(tuple(images), None, ()))
    assert len(found.bad) == 3
    assert events(log) == [("rejected_image", "image")] * 3
    assert all(event.created_at >= before for event in log.read_events("synthetic"))
