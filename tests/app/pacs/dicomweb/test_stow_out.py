"""Sending by STOW-RS: what is stored is sent once, and what is not waits or is given up."""

import json

import pytest

from app.pacs.dicomweb.stow_out import StowSender
from app.pacs.queue import Outgoing
from app.pacs.queue.upkeep import status
from app.pacs.storage import Storage
from benchmarks.system.pacs_peers import free_port
from tests.app.pacs.conftest import arrival

PATH = "/dicom-web/studies"


def failed(reason):
    return json.dumps({"00081198": {"vr": "SQ", "Value": [{"00081197": {"Value": [reason]}}]}})


@pytest.fixture
def sending(web_settings, queue):
    storage = Storage(web_settings.storage)
    queue.add(arrival())
    outgoing = [
        Outgoing("archive", kind, f"1.2.{kind}", storage.put(f"{kind}.dcm", kind.encode()))
        for kind in ("sr", "gsps")
    ]
    queue.finish(queue.claim(), "answered", "d", outgoing=outgoing)
    return StowSender(web_settings, web_settings.peers[0], storage, queue)


def states(queue):
    return status(queue)["destinations"]["archive"]


def test_each_object_is_posted_once(sending, web, queue):
    web.set(PATH, b"{}")
    assert sending.step()
    assert not sending.step()
    assert states(queue) == {"sent": 2}
    assert [b"\r\n\r\nsr\r\n--" in web.bodies[0], b"\r\n\r\ngsps\r\n--" in web.bodies[1]] == [1, 1]
    kind = web.asked[0][3]["Content-Type"]
    assert kind.startswith('multipart/related; type="application/dicom"; boundary=')


@pytest.mark.parametrize(
    ("status_code", "body", "reason"),
    [
        (409, failed(272), "(failure reason 272)"),
        (202, failed(43264), "(failure reason 43264)"),
        (409, "", "stores nothing"),
        (400, "", "answers 400"),
        (200, "<xml/>", "is no JSON"),
        (503, "", "answers 503"),
        (302, "", "answers 302"),
    ],
)
def test_what_is_not_stored_waits(sending, web, queue, clock, status_code, body, reason, caplog):
    web.set(PATH, body.encode(), status_code)
    assert sending.step()
    assert states(queue) == {"waiting": 2}
    assert not sending.step()
    clock.move(60)
    web.set(PATH, b"")
    assert sending.step()
    assert states(queue) == {"sent": 2}


def test_a_destination_that_is_away_is_given_up_with_its_reason(
    sending, web_settings, queue, clock, caplog
):
    peer = web_settings.peers[0]
    web = peer.web.model_copy(update={"url": f"http://127.0.0.1:{free_port()}"})
    limits = web_settings.limits.model_copy(update={"send_attempts": 2})
    settings = web_settings.model_copy(update={"limits": limits})
    away = StowSender(
        settings, peer.model_copy(update={"web": web}), Storage(settings.storage), queue
    )
    for _ in range(2):
        assert away.step()
        clock.move(300)
    assert states(queue) == {"dead": 2}
    assert "cannot be reached (ConnectError)" in caplog.text


def test_a_file_that_is_gone_is_dead(sending, web, queue, tmp_path):
    web.set(PATH, b"{}")
    for path in (tmp_path / "node/outbox").iterdir():
        path.unlink()
    assert sending.step()
    assert states(queue) == {"dead": 2}
