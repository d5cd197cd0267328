"""Storage commitment: delivered is what the destination has reported that it keeps."""

import io
from contextlib import closing

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModelInstance
from sqlalchemy import select

from app.pacs.delivery.commitment import (
    MODEL,
    NO_SUCH_TRANSACTION,
    PROCESSING_FAILURE,
    SUCCESS,
    Commitment,
)
from app.pacs.objects.sop_classes import SOP_CLASSES
from app.pacs.queue import Outgoing
from app.pacs.queue.tables import DELIVERIES
from app.pacs.queue.upkeep import clean
from app.pacs.receiver import Receiver
from app.pacs.sender import EchoResult, Sender, ask_for_echo
from app.pacs.settings import NodeSettings, QueueRetention
from app.pacs.storage import Storage
from benchmarks.system.pacs_peers import free_port
from tests.app.pacs.conftest import arrival, node_fields
from tests.app.pacs.objects.samples import (
    MADE_AT,
    build_objects,
    computed_radiograph,
    two_findings,
)

KINDS = ("sr", "gsps")


class Keeper:
    """An archive that notes what it is asked to keep, and reports when it is told to."""

    def __init__(self, port, *, offers=True):
        self.requests, self.stored = [], []
        entity = AE("ARCHIVE")
        for each in SOP_CLASSES.values():
            entity.add_supported_context(each)
        entity.add_supported_context("1.2.840.10008.1.1")
        if offers:
            entity.add_supported_context(MODEL)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._asked)]
        self.server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)

    def _store(self, event):
        self.stored.append(event.request.AffectedSOPInstanceUID)
        return 0

    def _asked(self, event):
        self.requests.append(event.action_information)
        return 0, None

    def close(self):
        self.server.shutdown()

    def report(self, port, failed=(), title="ARCHIVE"):
        """Status of the answer to a report about the newest request."""
        report, asked = Dataset(), self.requests[-1]
        items = asked.ReferencedSOPSequence
        bad = [i for i in items if i.ReferencedSOPInstanceUID in failed]
        for item in bad:
            item.FailureReason = 0x0112
        report.TransactionUID = asked.TransactionUID
        report.ReferencedSOPSequence = [i for i in items if i not in bad]
        if bad:
            report.FailedSOPSequence = bad
        entity = AE(title)
        entity.add_requested_context(MODEL)
        association = entity.associate(
            "127.0.0.1", port, ae_title="CXRMM", ext_neg=[build_role(MODEL, scp_role=True)]
        )
        assert association.is_established
        status, _ = association.send_n_event_report(
            report, 2 if bad else 1, MODEL, StorageCommitmentPushModelInstance
        )
        association.release()
        return status.Status


class World:
    """A node's sender and receiver, and an archive."""

    def __init__(self, folder, queue, **limits):
        peers = [
            {"name": "archive", "ae_title": "ARCHIVE", "commitment": True},
            {"name": "other", "ae_title": "OTHER"},
        ]
        for peer in peers:
            peer |= {"host": "127.0.0.1", "port": free_port()}
        fields = node_fields(folder, peers=peers, port=free_port(), limits=limits)
        self.settings, self.queue = NodeSettings.model_validate(fields), queue
        self.storage = Storage(self.settings.storage)
        self.sender = Sender(self.settings, self.settings.peers[0], self.storage, queue)
        self.port, self.uids = self.settings.port, {}

    def answer(self):
        """List two objects for the archive."""
        made = build_objects(computed_radiograph(), two_findings(), KINDS, MADE_AT)
        self.queue.add(arrival())
        outgoing = []
        for kind, each in made.items():
            path = self.storage.path(f"outbox/{kind}.dcm")
            each.save_as(path, enforce_file_format=True)
            self.uids[kind] = each.SOPInstanceUID
            outgoing.append(Outgoing("archive", kind, each.SOPInstanceUID, f"outbox/{kind}.dcm"))
        self.queue.finish(self.queue.claim(), "answered", "d", outgoing=outgoing)

    @property
    def states(self):
        with self.queue.reading() as connection:
            rows = connection.execute(select(DELIVERIES).order_by(DELIVERIES.c.id)).all()
        return [(row.state, row.reason) for row in rows]


@pytest.fixture
def world(tmp_path, queue):
    made = World(tmp_path, queue)
    made.answer()
    with Receiver(made.settings, made.storage, queue):
        yield made


@pytest.fixture
def keeper(world):
    with closing(Keeper(world.settings.peers[0].port)) as opened:
        yield opened


def test_what_is_stored_waits_for_the_report_and_is_then_committed(world, keeper):
    assert world.sender.step()
    assert world.states == [("stored", "waits for storage commitment")] * 2
    assert not world.sender.step()
    clean(world.queue, world.storage.root, QueueRetention())
    assert world.storage.path("outbox/sr.dcm").exists()  # it may have to be sent again
    assert keeper.report(world.port) == SUCCESS
    assert world.states == [("committed", "")] * 2
    assert keeper.report(world.port) == SUCCESS  # a repeat changes nothing
    clean(world.queue, world.storage.root, QueueRetention())
    assert not world.storage.path("outbox/sr.dcm").exists()
    assert len(keeper.stored) == 2


def test_what_is_reported_as_failed_is_sent_again(world, keeper, clock):
    world.sender.step()
    assert keeper.report(world.port, failed=[world.uids["sr"]]) == SUCCESS
    assert world.states == [("waiting", "not committed: 0x0112"), ("committed", "")]
    clock.move(10)
    world.sender.step()
    assert keeper.stored[2:] == [world.uids["sr"]]
    assert keeper.report(world.port) == SUCCESS
    assert world.states == [("committed", "")] * 2


def test_without_a_report_all_is_sent_again_until_it_is_given_up(tmp_path, queue, clock):
    world = World(tmp_path, queue, send_attempts=2, report_seconds=60)
    world.answer()
    with closing(Keeper(world.settings.peers[0].port)) as keeper:
        for number in (2, 4, 4):
            clock.move(61)
            assert world.sender.step()
            assert len(keeper.stored) == number
    assert world.states == [("dead", "no report of storage commitment")] * 2
    assert keeper.requests[0].TransactionUID != keeper.requests[1].TransactionUID


def test_a_report_of_an_earlier_request_or_another_peer_commits_nothing(world, keeper, clock):
    world.sender.step()
    assert keeper.report(world.port, title="OTHER") == NO_SUCH_TRANSACTION
    clock.move(300)
    world.sender.step()
    keeper.requests.pop()
    assert keeper.report(world.port) == NO_SUCH_TRANSACTION
    assert world.states == [("stored", "waits for storage commitment")] * 2


def test_a_destination_that_offers_none_is_a_failed_attempt_and_named(world):
    peer = world.settings.peers[0]
    with closing(Keeper(peer.port, offers=False)):
        world.sender.step()
        expected = "echo answered, does not take storage commitment"
        assert ask_for_echo(world.settings, peer) == EchoResult(False, expected)
    assert world.states == [("waiting", "the destination offers no storage commitment")] * 2


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"\x08\x00\x95\x11UI\xff\xff", b"\0" * 99])
def test_a_report_that_cannot_be_read_is_refused_and_commits_nothing(world, keeper, data):
    world.sender.step()
    event = Event(dcmread(io.BytesIO(data), force=True))
    answered = Commitment(world.queue, world.settings.limits, "archive").answer(event)
    assert answered in (PROCESSING_FAILURE, NO_SUCH_TRANSACTION)
    items = Dataset()
    items.TransactionUID = keeper.requests[0].TransactionUID
    items.ReferencedSOPSequence = [Dataset()]  # names no object
    answered = Commitment(world.queue, world.settings.limits, "archive").answer(Event(items))
    assert answered == PROCESSING_FAILURE
    assert world.states == [("stored", "waits for storage commitment")] * 2


class Event:
    """Of pynetdicom, as far as it is looked at."""

    def __init__(self, information):
        self.event_information = information
