"""Hostile peers: mutated messages and objects end nothing, and memory stays bounded."""

import gc
import io
import random
import resource
import time
from functools import partial
from pathlib import Path

import pytest

from app.pacs.answering import Answering
from app.pacs.header import HeaderReader
from app.pacs.queue import Arrival, Queue
from app.pacs.queue.upkeep import rows
from app.pacs.receiver import Receiver
from app.pacs.settings import NodeSettings
from app.pacs.storage import Storage
from app.pacs.worker import Worker
from benchmarks.system.pacs_hostile import mutated, recorded, spoken
from benchmarks.system.pacs_peers import free_port
from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.decoder import FITTING_READER, Decoder
from tests.app.pacs.conftest import DX, node_fields, radiograph, stored

MESSAGES, OBJECTS = 150, 40
STATM = Path("/proc/self/statm")


def memory():
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


@pytest.fixture
def settings(tmp_path):
    limits = {"idle_seconds": 1, "object_bytes": 1 << 20}
    fields = node_fields(tmp_path, port=free_port(), limits=limits)
    return NodeSettings.model_validate(fields)


@pytest.mark.skipif(not STATM.exists(), reason="the system has no /proc")
# pynetdicom leaves the files of messages that it drops to be closed by the collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mutated_messages_end_no_thread_and_leave_nothing_behind(settings):
    draw, storage = random.Random(11), Storage(settings.storage)
    queue, before = Queue(settings.queue_url), 0
    try:
        with Receiver(settings, storage, queue):
            units = recorded(settings.port, radiograph("1.2.3", side=40))
            for number in range(MESSAGES):
                hostile = list(units)
                which = draw.randrange(len(hostile))
                hostile[which] = mutated(hostile[which], draw)
                spoken(settings.port, hostile)
                before = before or (memory() if number == MESSAGES // 3 else 0)
            time.sleep(4)
            assert memory() < 1.1 * before
            assert stored(settings.port, radiograph("1.2.99")) == [0]
        gc.collect()
        assert not list(storage.arriving.iterdir())
        named = {f"received/{p.name}" for p in (storage.root / "received").iterdir()}
        claimed = set()
        while (row := queue.claim()) is not None:
            claimed.add(row.file)
        assert named == claimed
    finally:
        queue.close()


class Decoding(Answering):
    """Decodes as for a model, and has none."""

    def __init__(self, decoder):
        super().__init__({}, partial(decoder.read, size=32, mask_text=True), "")

    def result(self, bundle, path, header, **_):
        self.read(path, "image")
        raise RadiographError("no model", field="image")


def test_mutated_objects_each_end_with_a_reason(settings):
    draw, storage = random.Random(12), Storage(settings.storage)
    buffer, queue = io.BytesIO(), Queue(settings.queue_url)
    radiograph("1.2.3", side=40).save_as(buffer, enforce_file_format=True)
    with HeaderReader() as headers, Decoder(reader=FITTING_READER) as decoder:
        worker = Worker(settings, storage, queue, headers, Decoding(decoder))
        for number in range(OBJECTS):
            data = buffer.getvalue()
            # Most in the header: the pixels alone are noise anyway.
            head = mutated(data[:1200], draw)
            storage.path(f"received/{number}.dcm").write_bytes(head + data[1200:])
            uid = "1.2.3" if number == 0 else f"1.2.3.{number}"
            queue.add(Arrival(uid, DX, "archive", f"received/{number}.dcm", "c"))
            received = queue.claim()
            # The mutated file keeps the UID that it was made with.
            worker._work(type(received)(**{**vars(received), "sop_instance_uid": "1.2.3"}))
    ended = rows(queue, OBJECTS)
    assert {row["state"] for row in ended} == {"not_analysed"}
    assert all(row["reason"] for row in ended)
    queue.close()
