"""The worker: rows end as answered, not analysed or failed, whatever a header or a model does."""

import dataclasses
import errno
import json
import threading

import pytest

from app.pacs.answering import Answering
from app.pacs.header import HeaderReader, read
from app.pacs.queue import Arrival
from app.pacs.queue.upkeep import rows, status
from app.pacs.settings import Destination, LimitSettings
from app.pacs.storage import Storage
from app.pacs.worker import Worker
from cxr_mm.core.errors import LogError, RadiographError, UndecodedError
from cxr_mm.imaging.sandbox import Message
from tests.app.pacs.conftest import DX, radiograph
from tests.app.pacs.objects.samples import two_findings


class Model(Answering):
    """Raises or answers what a test wants."""

    def __init__(self, error):
        super().__init__({}, None, "")
        object.__setattr__(self, "error", error)

    def result(self, *_, **__):
        if self.error:
            raise self.error
        return self.answer


@pytest.fixture
def worker(settings, queue):
    """Makes a worker over one received image."""
    storage = Storage(settings.storage)
    with HeaderReader() as headers:

        def make(error=None, data=None, uid="1.2.3"):
            path = storage.path("received/a.dcm")
            image = radiograph("1.2.3")
            image.save_as(path, enforce_file_format=True)
            if data is not None:
                path.write_bytes(data)
            queue.add(Arrival(uid, DX, "archive", "received/a.dcm", "c"))
            return Worker(settings, storage, queue, headers, Model(error))

        yield make


def test_an_error_of_the_program_is_tried_again_and_then_the_image_has_failed(
    worker, queue, clock, caplog
):
    working = worker(ZeroDivisionError("Doe^Jane"))
    for _ in range(3):
        assert working.step()
        clock.move(300)
    assert not working.step()
    (row,) = rows(queue, 5)
    assert (row["state"], row["attempts"], row["reason"]) == ("failed", 3, "ZeroDivisionError")
    assert "Doe" not in caplog.text
    assert queue.retry() == 1
    assert working.step()


def test_a_full_disk_is_no_attempt_of_an_image(worker, queue, clock):
    working = worker(OSError(errno.ENOSPC, "No space left on device"))
    for _ in range(5):
        assert working.step()
        assert not working.step()
        clock.move(3)
    (row,) = rows(queue, 1)
    assert (row["state"], row["attempts"]) == ("received", 0)


def test_an_image_that_ends_the_node_each_time_has_failed(worker, queue):
    working = worker()
    for _ in range(10):
        queue.claim()
        queue.release_received()
    assert working.step()
    (row,) = rows(queue, 1)
    assert (row["state"], row["attempts"]) == ("failed", 1)
    assert row["reason"] == "the node has ended whenever it was answered"


def test_a_rejected_image_leaves_its_reason_and_a_report(worker, queue):
    assert worker(RadiographError("no chest radiograph", field="image")).step()
    (row,) = rows(queue, 1)
    assert (row["state"], row["reason"]) == ("not_analysed", "no chest radiograph")
    assert row["deliveries"] == {"waiting": 1}


def test_what_a_busy_machine_did_not_decode_is_tried_again(worker, queue, clock):
    working = worker(UndecodedError("takes more than 20 seconds", field="image"))
    for _ in range(2):
        assert working.step()
        clock.move(300)
        assert rows(queue, 1)[0]["state"] == "received"
    assert working.step()
    (row,) = rows(queue, 1)
    assert (row["state"], row["reason"]) == ("not_analysed", "takes more than 20 seconds")
    assert row["deliveries"] == {"waiting": 1}


@pytest.mark.parametrize("data", [b"", b"\0" * 128 + b"DICM" + b"\xff" * 40, b"junk" * 99])
def test_an_unreadable_header_leaves_its_reason(worker, queue, data):
    assert worker(data=data).step()
    (row,) = rows(queue, 1)
    assert row["state"] == "not_analysed"
    assert row["reason"].startswith(("the header cannot be read", "its UID is not"))
    assert status(queue)["counts"][0]["what"] == "not analysed: unreadable header"


def delivered_as(kinds, working, settings):
    """Have the rule of a worker's node deliver these kinds."""
    rule = settings.rules[0].model_copy(
        update={"destinations": (Destination(peer="archive", objects=kinds),)}
    )
    working._settings = settings.model_copy(update={"rules": (rule,)})


@pytest.mark.parametrize("found", [True, False])
def test_a_segmentation_is_sent_where_there_is_a_region(found, settings, worker, queue):
    working = worker()
    delivered_as(("sr", "seg", "pdf"), working, settings)
    result = two_findings() if found else dataclasses.replace(two_findings(), region=None)
    object.__setattr__(working._answering, "answer", result)
    assert working.step()
    kinds = {d.kind for d in queue.claim_deliveries("archive", 9)}
    assert kinds == {"sr", "pdf"} | ({"seg"} if found else set())


@pytest.mark.parametrize(
    ("error", "status"), [(None, "preliminary"), (RadiographError("no", field="x"), "cancelled")]
)
def test_fhir_is_written_as_json(error, status, settings, worker, queue):
    working = worker(error)
    delivered_as(("fhir",), working, settings)
    object.__setattr__(working._answering, "answer", two_findings())
    assert working.step()
    (delivery,) = queue.claim_deliveries("archive", 9)
    bundle = json.loads((settings.storage / delivery.file).read_text())
    report = bundle["entry"][-1]["resource"]
    assert (report["id"], report["status"]) == (delivery.sop_instance_uid, status)


def test_a_header_with_another_uid_than_it_was_sent_by_is_not_analysed(worker, queue):
    assert worker(uid="1.2.4").step()
    assert rows(queue, 1)[0]["reason"] == "its UID is not the one it was sent by"


def test_a_database_that_is_away_for_a_while_leaves_no_row_behind(worker, queue, monkeypatch):
    working, stop = worker(RadiographError("no", field="image")), threading.Event()
    finish, failures = queue.finish, [LogError("away"), LogError("away")]

    def fails(*args):
        if failures:
            raise failures.pop()
        stop.set()
        return finish(*args)

    monkeypatch.setattr(queue, "finish", fails)
    monkeypatch.setattr(stop, "wait", lambda _: None)
    working.run(stop, threading.Event())
    assert rows(queue, 1)[0]["state"] == "not_analysed"


def test_what_fails_while_the_node_ends_is_left_to_the_next_start(worker, queue):
    stop = threading.Event()
    working = worker(RadiographError("no more images are read", field="image"))
    failing = working._answering.result

    def ends(*args, **options):
        stop.set()
        failing(*args, **options)

    object.__setattr__(working._answering, "result", ends)
    working.run(stop, threading.Event())
    assert rows(queue, 1)[0]["state"] == "received"
    queue.release_received()
    assert queue.claim().interrupted == 1


def test_a_header_keeps_what_is_needed_and_no_long_or_private_values(tmp_path):
    image = radiograph("1.2.3", ImageComments="x" * 9000)
    image.add_new((0x0011, 0x0010), "LO", "private")
    image.add_new((0x0042, 0x0011), "OB", b"x" * 100_000)
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with HeaderReader() as headers:
        header = headers.read(tmp_path / "a.dcm", "image")
    assert header.PatientName == "Phantom^Test"
    assert (header.Rows, header.StudyInstanceUID) == (64, image.StudyInstanceUID)
    for tag in ((0x0011, 0x0010), (0x0042, 0x0011), (0x7FE0, 0x0010)):
        assert tag not in header


def test_a_fault_of_a_header_quotes_nothing(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(b"Doe^Jane" * 50)
    with pytest.raises(RadiographError) as raised:
        read(Message({"path": str(path), "name": "image"}))
    assert "Doe" not in str(raised.value)


def test_pauses_double_up_to_their_cap_with_jitter():
    limits = LimitSettings(shortest_pause=2, longest_pause=60)
    for attempts, most in ((1, 2), (2, 4), (5, 32), (6, 60), (5000, 60)):
        drawn = [limits.pause(attempts) for _ in range(200)]
        assert most / 2 <= min(drawn) < 0.6 * most
        assert 0.9 * most < max(drawn) <= most


def test_other_rules_make_another_configuration(settings):
    other = settings.model_copy(update={"ae_title": "OTHER"})
    assert settings.configuration != other.configuration
    assert settings.configuration == settings.model_copy(update={"port": 1}).configuration
