"""Fragments of data sets arrive as they were sent, however they are cut."""

import threading
import time

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import P_DATA

from app.pacs.delivery.fragments import read_soon, unburden
from app.pacs.queue import Queue
from app.pacs.receiver import Receiver
from app.pacs.settings import NodeSettings
from app.pacs.storage import Storage
from benchmarks.system.pacs_peers import awaited, free_port
from tests.app.pacs.conftest import DX, associated, node_fields, radiograph


@pytest.fixture
def node(tmp_path):
    """Port of a receiver, and the folder of what it has received."""
    settings = NodeSettings.model_validate(node_fields(tmp_path, port=free_port()))
    storage, queue = Storage(settings.storage), Queue(settings.queue_url)
    with Receiver(settings, storage, queue) as receiver:
        yield receiver.port, storage.root / "received"
    queue.close()


def in_pairs(association):
    """Have two presentation data values sent by each unit."""
    send, waiting = association.dul.send_pdu, []

    def send_pair(primitive):
        if not isinstance(primitive, P_DATA):
            send(primitive)
            return
        waiting.extend(primitive.presentation_data_value_list)
        if len(waiting) == 2 or waiting[-1][1][0] & 2:  # the last of command or data set
            pair = P_DATA()
            pair.presentation_data_value_list.extend(waiting)
            waiting.clear()
            send(pair)

    association.dul.send_pdu = send_pair


def hastened(association):
    """As the sender's."""
    unburden(association, 9)
    read_soon(association)


@pytest.mark.parametrize("largest", [90, 1000, 16382, 1 << 17])
@pytest.mark.parametrize("change", [None, in_pairs, hastened])
def test_what_is_received_is_what_was_sent(node, largest, change, monkeypatch):
    port, folder = node
    size = "pynetdicom.dimse.DIMSEServiceProvider.maximum_pdu_size"
    monkeypatch.setattr(size, property(lambda _: largest))
    images = [radiograph(side=100, seed=seed) for seed in range(2)]
    association = associated(port)
    if change:
        change(association)
    assert [association.send_c_store(each).Status for each in images] == [0, 0]
    association.release()
    kept = {each.SOPInstanceUID: each for each in map(pydicom.dcmread, folder.iterdir())}
    assert kept == {each.SOPInstanceUID: each for each in images}


def test_a_peer_that_takes_nothing_more_ends_the_association():
    done, entity, port = threading.Event(), AE("CXRMM"), free_port()

    def stall(event):
        event.assoc.dul._read_pdu_data = lambda: done.wait(20)

    entity.add_supported_context(DX, ExplicitVRLittleEndian)
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_ACCEPTED, stall)]
    )
    try:
        association = associated(port, contexts=(DX,))
        association.dimse_timeout = 1
        unburden(association, 1)
        started = time.monotonic()
        assert "Status" not in association.send_c_store(radiograph(side=3000))
        assert time.monotonic() - started < 10
        assert awaited(lambda: not association.is_alive(), 5)
        assert not association.is_established
    finally:
        done.set()
        server.shutdown()


def test_a_loop_that_is_paused_takes_no_message(node):
    port, _ = node
    association = associated(port)
    unburden(association, 9)
    association.dimse_timeout = 2
    taken, take = [], association.dimse.get_msg

    def slowly(block=False):
        time.sleep(0 if block else 0.02)  # as where others have the processor
        found = take(block)
        taken.append((block, found[1] is not None))
        return found

    association.dimse.get_msg = slowly
    for seed in range(10):
        assert association.send_c_store(radiograph(side=20, seed=seed)).Status == 0
    association.release()
    assert (False, True) not in taken
    assert taken.count((True, True)) == 10
