"""The queue: each SOP instance and each delivery once, whoever asks and whenever it ends."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from app.pacs.queue import Outgoing, Queue, Summary, uid_key
from app.pacs.queue.tables import DELIVERIES, RECEIVED
from app.pacs.queue.upkeep import clean, remove_unnamed, rows, status
from app.pacs.settings import QueueRetention
from app.pacs.storage import FOLDERS, Storage
from cxr_mm.core.errors import LogError
from tests.app.pacs.conftest import Clock, arrival

OUT = Outgoing("archive", "sr", "2.25.7", "outbox/7.dcm")

WORKER = """
import sys
from app.pacs.queue import Outgoing, Queue
from tests.app.pacs.conftest import arrival
url, role, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
queue = Queue(url)
if role == "add":
    for number in range(count):
        print(int(queue.add(arrival(f"1.{number}"))), flush=True)
else:
    queue.release_received()
    while (row := queue.claim()) is not None:
        out = [Outgoing("archive", k, f"2.25.{row.id}", "outbox/x.dcm") for k in ("sr", "sc")]
        queue.finish(row, "answered", "d", outgoing=out)
        print(row.sop_instance_uid, flush=True)
"""


def started(url, role, count=0):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    command = [sys.executable, "-c", WORKER, url, role, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def all_rows(queue, table):
    with queue.transaction() as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


def test_a_sop_instance_is_added_once(queue):
    assert queue.content_of("1.2.3") is None
    assert queue.add(arrival())
    assert not queue.add(arrival(file="received/other.dcm"))
    (row,) = all_rows(queue, RECEIVED)
    assert (row.key, row.file) == (uid_key("1.2.3"), "received/1.2.3.dcm")
    assert queue.content_of("1.2.3") == "c" * 64


def test_two_threads_add_and_claim_each_once(queue):
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda n: queue.add(arrival(f"1.{n % 10}")), range(40)))
        claimed = [r for r in pool.map(lambda _: queue.claim(), range(20)) if r]
    assert sum(added) == 10
    assert sorted(r.sop_instance_uid for r in claimed) == sorted(f"1.{n}" for n in range(10))


def test_two_processes_add_each_once(url, queue):
    processes = [started(url, "add", 40) for _ in range(2)]
    outputs = [p.communicate(timeout=120)[0].split() for p in processes]
    assert [p.returncode for p in processes] == [0, 0]
    assert sum(line == "1" for output in outputs for line in output) == 40
    assert len(all_rows(queue, RECEIVED)) == 40


def test_a_killed_process_loses_and_doubles_nothing(url, queue):
    for number in range(60):
        queue.add(arrival(f"1.{number}"))
    for wanted in (1, 7, 20):
        process = started(url, "work")
        for _ in range(wanted):
            process.stdout.readline()
        time.sleep(0.003 * wanted)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    process = started(url, "work")
    process.communicate(timeout=120)
    assert {row.state for row in all_rows(queue, RECEIVED)} == {"answered"}
    deliveries = all_rows(queue, DELIVERIES)
    assert len(deliveries) == len({(d.received_id, d.kind) for d in deliveries}) == 120


def test_the_urgent_go_first_then_the_oldest(queue, clock):
    for uid, priority in (("1.1", 2), ("1.2", 0), ("1.3", 0), ("1.4", 1)):
        queue.add(arrival(uid, priority))
        clock.move(1)
    assert [queue.claim().sop_instance_uid for _ in range(4)] == ["1.4", "1.2", "1.3", "1.1"]
    assert queue.claim() is None


def test_what_failed_waits_for_its_turn_and_counts_its_attempts(queue, clock):
    queue.add(arrival())
    first = queue.claim()
    queue.postpone(first, 10, "no memory")
    assert queue.claim() is None
    clock.move(10)
    again = queue.claim()
    assert (first.attempts, again.attempts) == (1, 2)


def test_a_claim_of_an_ended_process_is_free_at_the_next_start(queue):
    queue.add(arrival())
    queue.claim()
    assert queue.claim() is None
    queue.add(arrival("1.9"))
    queue.release_received()
    assert queue.claim().sop_instance_uid == "1.9"  # whose turn is before one that was interrupted
    again = queue.claim()
    assert (again.attempts, again.interrupted) == (1, 1)


def test_a_clock_set_back_delays_nothing(queue, clock):
    queue.add(arrival())
    clock.move(-86_400)
    assert queue.claim() is not None


def test_deliveries_of_one_model_are_added_once_and_those_of_another_beside_them(queue, clock):
    queue.add(arrival())
    assert queue.finish(queue.claim(), "answered", "a", outgoing=[OUT]) == 1
    clock.move(60)
    for digest, new in (("a", 0), ("b", 1)):
        assert queue.replay(clock.now.replace(hour=11)) == 1
        assert queue.finish(queue.claim(), "answered", digest, outgoing=[OUT]) == new
    assert queue.replay(clock.now) == 0


def test_a_delivery_is_sent_once_or_dead_until_retried(queue, clock):
    queue.add(arrival())
    other = Outgoing("archive", "sc", "2.25.8", "outbox/8.dcm")
    queue.finish(queue.claim(), "answered", "a", outgoing=[OUT, other])
    first, second = queue.claim_deliveries("archive", 10)
    assert queue.claim_deliveries("archive", 10) == []
    assert queue.claim_deliveries("elsewhere", 10) == []
    queue.sent(first)
    queue.bury(second, "refused")
    assert status(queue)["destinations"] == {"archive": {"dead": 1, "sent": 1}}
    assert queue.retry() == 1
    assert [d.kind for d in queue.claim_deliveries("archive", 10)] == ["sc"]


def test_counts_add_up_by_reason_and_peer(queue):
    for peer in ("", "archive", "archive"):
        queue.count("too large", peer)
    assert status(queue)["counts"] == [
        {"what": "too large", "peer": "", "number": 1},
        {"what": "too large", "peer": "archive", "number": 2},
    ]


def test_files_and_then_identifiers_are_forgotten_but_a_repeat_is_known(queue, clock, tmp_path):
    storage, keep = Storage(tmp_path / "node"), QueueRetention(file_hours=1, identifier_days=1)
    image, answer = (tmp_path / "node" / name for name in ("received/1.2.3.dcm", "outbox/7.dcm"))
    for path in (image, answer):
        path.write_bytes(b"x")
    queue.add(arrival())
    queue.finish(queue.claim(), "answered", "a", outgoing=[OUT])
    clock.move(7200)
    clean(queue, storage.root, keep)
    assert image.exists()
    queue.sent(*queue.claim_deliveries("archive", 1))
    clock.move(3601)
    clean(queue, storage.root, keep)
    assert not image.exists()
    assert not answer.exists()
    assert all_rows(queue, RECEIVED)[0].sop_instance_uid == "1.2.3"
    clock.move(86_400)
    clean(queue, storage.root, keep)
    assert all_rows(queue, RECEIVED)[0].sop_instance_uid is None
    assert all_rows(queue, DELIVERIES)[0].sop_instance_uid is None
    assert not queue.add(arrival())


def test_what_cannot_be_delivered_is_given_up_after_the_longest_time(queue, clock, tmp_path):
    storage = Storage(tmp_path / "node")
    queue.add(arrival())
    queue.finish(queue.claim(), "answered", "a", outgoing=[OUT])
    queue.add(arrival("1.9"))
    clock.move(31 * 86_400)
    clean(queue, storage.root, QueueRetention())
    assert [row["state"] for row in rows(queue, 5)] == ["failed", "answered"]
    assert rows(queue, 5)[1]["deliveries"] == {"dead": 1}
    assert queue.retry() == 0


def test_a_start_removes_files_that_no_row_names(queue, tmp_path):
    storage = Storage(tmp_path / "node")
    queue.add(arrival())
    for name in ("received/1.2.3.dcm", "received/left.dcm", "arriving/half", "outbox/left.dcm"):
        storage.path(name).write_bytes(b"x")
    remove_unnamed(queue, storage.root, FOLDERS)
    left = [str(p.relative_to(storage.root)) for p in storage.root.rglob("*") if p.is_file()]
    assert left == ["received/1.2.3.dcm"]


def test_the_queue_works_on_postgresql(postgresql, request):
    clock = Clock()
    queue = Queue(postgresql, clock=clock)
    request.addfinalizer(queue.close)
    assert queue.add(arrival())
    assert not queue.add(arrival())
    assert queue.finish(queue.claim(), "answered", "a", outgoing=[OUT, OUT]) == 1
    queue.count("x")
    queue.count("x")
    assert status(queue)["counts"][0]["number"] == 2
    queue.sent(*queue.claim_deliveries("archive", 2))
    clock.move(60)
    assert queue.replay(clock.now.replace(hour=11)) == 1


@pytest.mark.parametrize(
    ("url", "message"), [("sqlite://", "in memory keeps nothing"), ("mysql://h/q", "Name SQLite")]
)
def test_other_databases_are_refused(url, message):
    with pytest.raises(LogError, match=message):
        Queue(url)


def test_the_urgent_are_delivered_first_then_the_most_suspicious_then_the_oldest(queue):
    expected = {"1.5": 1, "1.3": 0, "1.1": 0, "1.2": 0, "1.4": 0}
    suspicion = {"1.1": 0.8, "1.2": 0.8, "1.3": 3.0, "1.4": None, "1.5": 0.1}
    for uid in sorted(expected):
        queue.add(arrival(uid, expected[uid]))
    while (row := queue.claim()) is not None:
        found = suspicion[row.sop_instance_uid]
        summary = None if found is None else Summary("t", found, ())
        out = [Outgoing("archive", "sr", row.sop_instance_uid, "outbox/x.dcm")]
        queue.finish(row, "answered", "d", outgoing=out, summary=summary)
    sent = [d.sop_instance_uid for d in queue.claim_deliveries("archive", 9)]
    assert sent == list(expected)


def test_only_the_claims_of_one_process_are_given_back(queue):
    for uid in ("1.1", "1.2"):
        queue.add(arrival(uid))
    queue.claim("worker 1")
    queue.claim("worker 2")
    queue.release_received("worker 2")
    again = queue.claim()
    assert (again.sop_instance_uid, again.interrupted) == ("1.2", 1)
    assert queue.claim() is None
