"""Alerts of the node: each cause once, its end once, and again until it was taken."""

from dataclasses import replace

import pytest

from app.pacs.queue import Outgoing, Queue
from app.pacs.queue.watched import alerts, note_peer, peer_states
from app.pacs.settings import NodeSettings
from app.pacs.storage import Storage
from app.pacs.watch.alerts import Watch
from cxr_mm.core.errors import CxrError
from tests.app.pacs.conftest import arrival, node_fields

OUT = Outgoing("archive", "sr", "2.25.7", "outbox/7.dcm")


class Channel:
    """Takes notices, unless it is away."""

    def __init__(self):
        self.away, self.taken = False, []

    def __call__(self, notice):
        if self.away:
            raise CxrError("away")
        self.taken.append((notice.subject, notice.text))


@pytest.fixture
def channel():
    return Channel()


@pytest.fixture
def watch(tmp_path, queue, channel):
    settings = NodeSettings.model_validate(node_fields(tmp_path, alerts={"free_bytes": 0}))
    return Watch(settings, Storage(settings.storage), queue, {"webhook": channel})


def test_a_dead_delivery_is_told_once_and_its_end_once(watch, queue, channel):
    queue.add(arrival())
    queue.finish(queue.claim(), "answered", "a", outgoing=[OUT])
    watch.step()
    assert channel.taken == []
    queue.bury(*queue.claim_deliveries("archive", 1), "refused")
    for _ in range(3):
        watch.step()
    subject, text = "ALERT CXRMM: dead deliveries to archive", "1 objects were given up"
    assert channel.taken[0][0] == subject
    assert channel.taken[0][1].startswith(text)
    queue.retry()
    for _ in range(3):
        watch.step()
    assert [s for s, _ in channel.taken] == [subject, "OVER CXRMM: dead deliveries to archive"]
    assert alerts(queue) == []


def test_a_destination_is_away_once_it_was_so_for_long(watch, queue, clock, channel):
    note_peer(queue, "archive", "cannot be reached")
    clock.move(14 * 60)
    note_peer(queue, "archive", "rejects")  # since when does not move
    watch.step()
    assert channel.taken == []
    clock.move(61)
    watch.step()
    assert channel.taken[0][0] == "ALERT CXRMM: archive is away"
    note_peer(queue, "archive")
    assert peer_states(queue)[0].since == clock.now
    watch.step()
    assert channel.taken[1][0] == "OVER CXRMM: archive is away"


def test_an_old_image_and_a_full_disk_are_told(tmp_path, queue, clock, channel):
    fields = node_fields(tmp_path, alerts={"free_bytes": 1 << 60})
    settings = NodeSettings.model_validate(fields)
    queue.add(arrival())
    clock.move(16 * 60)
    Watch(settings, Storage(settings.storage), queue, {"mail": channel}).step()
    (disk, free), (images, waits) = sorted(channel.taken)
    assert (disk, free[-12:]) == ("ALERT CXRMM: disk nearly full", "GiB are left")
    assert images == "ALERT CXRMM: images wait"
    assert waits == "the oldest has waited for 16 minutes"


def test_what_a_channel_does_not_take_waits_for_it_also_beyond_a_restart(
    watch, queue, url, clock, channel
):
    note_peer(queue, "archive", "cannot be reached")
    clock.move(3600)
    channel.away = True
    watch.step()
    watch.step()
    (waiting,) = alerts(queue)
    assert (waiting.over, waiting.channels) == (False, ("webhook",))
    channel.away = False
    Watch(watch._settings, watch._storage, Queue(url, clock=clock), {"webhook": channel}).step()
    assert len(channel.taken) == 1
    assert alerts(queue) == [replace(waiting, channels=())]
