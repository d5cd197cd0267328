"""The queue as the page's Inbox shows it."""

import pytest
import yaml

from app.inbox import MOST, Wanted
from app.pacs.queue import Outgoing, Queue, Summary
from app.pacs.queue.watched import note_peer
from app.pacs.watch.inbox import QueueInbox
from cxr_mm.core.errors import InputError, LogError
from tests.app.pacs.conftest import arrival, node_fields

NONE = Wanted()


def found(name, positive):
    return {
        "finding": name,
        "title": name,
        "probability": 0.7,
        "positive": positive,
        "certainty": "present",
    }


@pytest.fixture
def inbox(tmp_path):
    """The queue of a node with four images, of which one waits and one is refused."""
    fields = node_fields(tmp_path)
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(fields))
    with QueueInbox(tmp_path / "node.yaml") as opened:
        queue = opened._queue
        for uid in ("1.1", "1.2", "1.3", "1.4"):
            queue.add(arrival(uid))
        for suspicion, positive in ((0.5, False), (2.0, True)):
            summary = Summary("synthetic", suspicion, (found("effusion", positive),))
            out = [Outgoing("archive", "sr", "2.25.1", "outbox/1.dcm")]
            queue.finish(queue.claim(), "answered", "d", outgoing=out, summary=summary)
        queue.finish(queue.claim(), "not_analysed", reason="lateral view (LL)")
        yield opened


def uids(inbox, task="synthetic", wanted=NONE):
    return [row.uid for row in inbox.look(task, wanted).rows]


def test_the_most_suspicious_is_first_and_what_has_no_answer_last(inbox):
    view = inbox.look("synthetic", NONE)
    assert [row.uid for row in view.rows][:2] == ["1.2", "1.1"]
    assert {row.state for row in view.rows[2:]} == {"received", "not_analysed"}
    assert view.rows[0].deliveries == {"waiting": 1}
    assert (view.number, view.waiting, view.last_hour) == (4, 1, 3)


def test_rows_are_chosen_by_state_finding_and_text(inbox):
    assert uids(inbox, wanted=Wanted("not_analysed")) == ["1.3"]
    assert uids(inbox, wanted=Wanted(finding="effusion")) == ["1.2"]
    assert uids(inbox, wanted=Wanted(text=" LATERAL ")) == ["1.3"]
    assert uids(inbox, wanted=Wanted(text="1.4")) == ["1.4"]
    assert uids(inbox, wanted=Wanted(text="%")) == []
    assert uids(inbox, task="other") == ["1.4", "1.3"]


def test_only_so_many_rows_are_shown(inbox):
    for number in range(MOST + 5):
        inbox._queue.add(arrival(f"2.{number}"))
    view = inbox.look("synthetic", NONE)
    assert (len(view.rows), view.number) == (MOST, MOST + 9)


def test_every_destination_is_there_called_or_not(inbox):
    (peer,) = inbox.look("synthetic", NONE).peers
    assert (peer.name, peer.trouble, peer.since) == ("archive", "", None)
    note_peer(inbox._queue, "archive", "away")
    assert inbox.look("synthetic", NONE).peers[0].trouble == "away"


def test_an_image_is_opened_while_its_file_is_there(inbox, tmp_path):
    (tmp_path / "node" / "received").mkdir(parents=True)
    row = inbox.look("synthetic", NONE).rows[0]
    with pytest.raises(InputError, match="was deleted"):
        inbox.image(row.number)
    path = tmp_path / "node" / "received" / "1.2.dcm"
    path.write_bytes(b"x")
    assert inbox.image(row.number) == ("1.2", path)
    with pytest.raises(InputError):
        inbox.image(99)


def test_a_study_of_the_queue_is_known_and_one_is_not_where_the_queue_is_away(inbox, monkeypatch):
    assert inbox.has("1.1")
    assert not inbox.has("9.9")

    def away(*_):
        raise LogError("away")

    monkeypatch.setattr(Queue, "content_of", away)
    assert not inbox.has("1.1")
