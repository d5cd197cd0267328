"""FHIR to a server or a folder: each report once in its place, and again until it is there."""

import json
from contextlib import contextmanager

import pytest
from sqlalchemy import select

from app.pacs.delivery.fhir import FhirSender, ask_for_fhir
from app.pacs.objects.fhir import fhir_bundle, report_id
from app.pacs.queue import Outgoing
from app.pacs.queue.tables import DELIVERIES
from app.pacs.sender import EchoResult
from app.pacs.settings import NodeSettings
from app.pacs.storage import Storage
from tests.app.pacs.conftest import arrival, node_fields
from tests.app.pacs.dicomweb.conftest import Web, serving
from tests.app.pacs.objects.samples import MADE_AT, computed_radiograph, two_findings

ROOT = "/fhir"
BUNDLE = fhir_bundle(computed_radiograph(), two_findings(), MADE_AT)
REPORT = report_id(BUNDLE)


class World:
    """One report that waits for a destination."""

    def __init__(self, root, queue, **fhir):
        peer = {"name": "records", "fhir": fhir}
        rule = {"bundle": str(root), "destinations": [{"peer": "records", "objects": ["fhir"]}]}
        fields = node_fields(root, peers=[peer], rules=[rule])
        self.settings, self.queue = NodeSettings.model_validate(fields), queue
        storage = Storage(self.settings.storage)
        self.peer = self.settings.peers[0]
        self.sender = FhirSender(self.settings, self.peer, storage, queue)
        file = storage.put("a.json", json.dumps(BUNDLE).encode())
        queue.add(arrival())
        outgoing = [Outgoing("records", "fhir", REPORT, file)]
        queue.finish(queue.claim(), "answered", "d", outgoing=outgoing)

    @property
    def state(self):
        with self.queue.reading() as connection:
            row = connection.execute(select(DELIVERIES)).one()
        return row.state, row.reason


@contextmanager
def server(status=200, done=("201 Created",) * 4, body=None):
    web = Web()
    answer = {"resourceType": "Bundle", "type": "transaction-response"}
    answer["entry"] = [{"response": {"status": each}} for each in done]
    found = json.dumps(answer).encode() if body is None else body
    web.set(ROOT, found, status, "application/fhir+json")
    web.set(f"{ROOT}/metadata", b'{"fhirVersion": "4.0.1"}', kind="application/fhir+json")
    with serving(web) as port:
        web.url = f"http://127.0.0.1:{port}{ROOT}"
        yield web


def test_a_server_gets_the_transaction_once(tmp_path, queue):
    with server() as web:
        world = World(tmp_path, queue, server={"url": web.url})
        assert world.sender.step()
        assert not world.sender.step()
    (request,) = web.asked
    assert request[:2] == ("POST", ROOT)
    assert request[3]["Content-Type"] == "application/fhir+json"
    assert json.loads(web.bodies[0]) == BUNDLE
    assert world.state == ("sent", "")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"status": 503}, "the service answers 503"),
        ({"status": 422}, "the server answers 422"),
        ({"done": ("201 Created",) * 3}, "the server did not carry out the transaction"),
        ({"done": ("201",) * 3 + ("412",)}, "the server did not carry out the transaction"),
        ({"body": b"[]"}, "the server did not carry out the transaction"),
        ({"body": b"<html>"}, "the answer is no JSON"),
    ],
)
def test_what_was_not_carried_out_waits_with_its_reason(tmp_path, queue, clock, answer, reason):
    with server(**answer) as web:
        world = World(tmp_path, queue, server={"url": web.url})
        world.sender.step()
        assert world.state == ("waiting", reason)
        web.set(ROOT, b"{}", 500)
        clock.move(10)
        world.sender.step()
    assert len(web.bodies) == 2
    assert world.state[0] == "waiting"


def test_a_folder_gets_a_file_that_a_repeat_replaces(tmp_path, queue):
    world = World(tmp_path, queue, folder=str(tmp_path / "reports"))
    assert ask_for_fhir(world.settings, world.peer) == EchoResult(True, "the folder can be written")
    world.sender.step()
    assert world.state == ("sent", "")
    (path,) = (tmp_path / "reports").iterdir()
    assert path.name == f"{REPORT}.json"
    path.write_text("half")
    with queue.transaction() as connection:
        connection.execute(DELIVERIES.update().values(state="waiting"))
    world.sender.step()
    assert [json.loads(p.read_text()) for p in path.parent.iterdir()] == [BUNDLE]


def test_a_folder_that_cannot_be_written_is_tried_again(tmp_path, queue):
    (tmp_path / "reports").write_text("no folder")
    world = World(tmp_path, queue, folder=str(tmp_path / "reports"))
    assert not ask_for_fhir(world.settings, world.peer).ok
    world.sender.step()
    assert world.state[0] == "waiting"
    assert "cannot be written" in world.state[1]


@pytest.mark.parametrize(
    ("version", "ok"), [(b'{"fhirVersion": "4.0.1"}', True), (b'{"fhirVersion": "5.0.0"}', False)]
)
def test_an_echo_says_which_version_answers(tmp_path, queue, version, ok):
    with server() as web:
        web.set(f"{ROOT}/metadata", version)
        world = World(tmp_path, queue, server={"url": web.url})
        found = ask_for_fhir(world.settings, world.peer)
    assert (found.ok, found.text) == (ok, f"FHIR {json.loads(version)['fhirVersion']} answers")
