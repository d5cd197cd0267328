"""Inbox tab: what its events answer, with a real bundle and no browser."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from app.inbox import InboxPeer, InboxRow, InboxView
from app.service import InferenceService
from app.ui import inbox as tab
from app.ui import page
from cxr_mm.core.errors import InputError, LogError
from cxr_mm.prediction_log import open_log

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FOUND = {
    "finding": "effusion",
    "title": "Effusion <b>",
    "probability": 0.71,
    "positive": True,
    "certainty": "present",
}


def row(number, **changed):
    fields = {
        "number": number, "uid": f"1.2.{number}", "peer": "archive",
        "received_at": NOW - timedelta(minutes=7), "state": "answered", "reason": "",
        "suspicion": 2.0, "findings": (FOUND,), "deliveries": {"sent": 2, "waiting": 1},
        "has_image": True,
    }  # fmt: skip
    return InboxRow(**fields | changed)


class Queue:
    """An inbox with two rows, of which the file of one was deleted."""

    def __init__(self, image=None):
        self.file, self.away = image, False

    def look(self, task, wanted):
        if self.away:
            raise LogError("the queue is away")
        rows = (row(3), row(4, state="received", findings=(), suspicion=None, has_image=False))
        peers = (InboxPeer("archive", "cannot be reached", NOW - timedelta(hours=3)),)
        return InboxView(rows, 250, peers, 1, 420.0, 12, NOW)

    def image(self, number):
        if number != 3:
            raise InputError("its image was deleted")
        return "1.2.3", self.file

    def has(self, study_id):
        return study_id == "1.2.3"


def test_rows_peers_and_throughput_are_shown_and_what_can_be_opened(service):
    text, choice = tab.on_look(service, Queue(), "", "", None, 3)
    for words in (
        "2 of 250 images, most suspicious first",
        "1 waiting, the oldest for 7 min",
        "12 answered in the last hour",
        "archive: away for 3 h (cannot be reached)",
        '<span class="finding yes">Effusion &lt;b&gt; 71.0 %</span>',
        "2 sent, 1 waiting",
    ):
        assert words in text
    assert choice["choices"] == [("3: Effusion <b> 71.0 %", 3)]
    assert choice["value"] == 3
    assert tab.on_look(service, Queue(), "", "", None, 4)[1]["value"] is None


def test_a_queue_that_is_away_is_said(service):
    queue = Queue()
    queue.away = True
    assert "the queue is away" in tab.on_look(service, queue, "", "", None, None)[0]


def test_an_image_fills_the_form_with_what_its_header_says(service, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (300, 200), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    path, study_id, patient_id, *clinical, fault = tab.on_open(
        service, Queue(tmp_path / "image.png"), 3
    )
    assert str(tmp_path / "uploads") in path
    assert (study_id, patient_id, fault) == ("1.2.3", "", "")
    assert clinical == [""] * len(service.task.clinical)


@pytest.mark.parametrize(("number", "words"), [(None, "Choose an image"), (4, "was deleted")])
def test_what_cannot_be_opened_leaves_the_form_alone(service, number, words):
    *skipped, fault = tab.on_open(service, Queue(), number)
    assert words in fault
    assert len(skipped) == 3 + len(service.task.clinical)
    assert all(value == {"__type__": "update"} for value in skipped)


def test_the_page_has_the_tab_where_there_is_a_node(service):
    def tabs(built):
        return [b.label for b in built.blocks.values() if b.__class__.__name__ == "Tab"]

    assert "Inbox" in tabs(page.build(service, inbox=Queue()))
    assert "Inbox" not in tabs(page.build(service))


def test_what_the_node_has_logged_is_not_logged_again(predictor, tmp_path):
    image = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 255, (300, 200), dtype=np.uint8)
    Image.fromarray(pixels).save(image)
    with open_log(f"sqlite:///{tmp_path / 'log.db'}") as log:
        node = InferenceService(predictor, log, source="pacs")
        opened = InferenceService(predictor, log, of_node=Queue().has)
        for service, study_id in ((node, "1.2.3"), (opened, "1.2.3"), (opened, "other")):
            service.answer(service.study(str(image), {}, None, study_id=study_id))
        sources = [record.source for record in log.read_window(predictor.bundle.task.name)]
    assert sorted(sources) == ["pacs", "page"]
