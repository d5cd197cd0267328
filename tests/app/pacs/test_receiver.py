"""The receiver: success means on disk and in the queue; all else is a status and a count."""

import socket
import ssl
import struct
import subprocess
import time
from types import SimpleNamespace

import pydicom
import pytest

from app.pacs.guard import close_for_good
from app.pacs.queue import Queue
from app.pacs.queue.upkeep import status
from app.pacs.receiver import Receiver
from app.pacs.settings import NodeSettings
from app.pacs.storage import Storage
from benchmarks.system.pacs_peers import free_port
from cxr_mm.core.errors import LogError, ParamsError
from tests.app.pacs.conftest import DX, associated, dcmtk, node_fields, radiograph, stored

MR = "1.2.840.10008.5.1.4.1.1.4"
CT = "1.2.840.10008.5.1.4.1.1.2"


class Node:
    """A receiver with its storage and queue."""

    def __init__(self, tmp_path, **changed):
        fields = node_fields(tmp_path, port=free_port(), **changed)
        self.settings = NodeSettings.model_validate(fields)
        self.storage = Storage(self.settings.storage)
        self.queue = Queue(self.settings.queue_url)
        self.receiver = Receiver(self.settings, self.storage, self.queue)
        self.port = self.receiver.port

    def files(self, folder="received"):
        return sorted((self.storage.root / folder).iterdir())

    def counts(self):
        return {c["what"]: c["number"] for c in status(self.queue)["counts"]}

    def counted(self, what, number=1):
        until = time.monotonic() + 15
        while self.counts().get(what, 0) < number and time.monotonic() < until:
            time.sleep(0.05)
        assert self.counts().get(what) == number

    def close(self):
        self.receiver.close()
        self.queue.close()


@pytest.fixture
def opened(tmp_path):
    nodes = []

    def make(**changed):
        nodes.append(Node(tmp_path, **changed))
        return nodes[-1]

    yield make
    for each in nodes:
        each.close()


@pytest.fixture
def node(opened):
    return opened()


def test_success_means_on_disk_and_in_the_queue(node):
    sent = radiograph("1.2.3")
    assert stored(node.port, sent) == [0x0000]
    (file,) = node.files()
    kept = pydicom.dcmread(file)
    assert kept == sent
    assert kept.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    row = node.queue.claim()
    assert (row.sop_instance_uid, row.peer, row.sop_class_uid) == ("1.2.3", "archive", DX)
    assert node.storage.path(row.file) == file
    assert node.files("arriving") == []


def test_the_file_is_synced_before_its_row_and_the_row_before_the_answer(node, monkeypatch):
    done = []
    monkeypatch.setattr("app.pacs.storage.sync", lambda path: done.append(path.name[-4:]))
    added = node.queue.add
    monkeypatch.setattr(node.queue, "add", lambda a: done.append("row") or added(a))
    assert stored(node.port, radiograph()) == [0x0000]
    assert done == [".dcm", "ived", "row"]


def test_a_repeat_is_success_and_changes_nothing(node):
    first, changed = radiograph("1.2.3"), radiograph("1.2.3", seed=1)
    assert stored(node.port, first, first, changed) == [0, 0, 0]
    assert node.counts() == {"repeat": 1, "repeat with other content": 1}
    (file,) = node.files()
    assert pydicom.dcmread(file) == first


def test_echo_is_answered(node):
    association = associated(node.port)
    assert association.send_c_echo().Status == 0
    association.release()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"title": "STRANGER"}, "unknown AE title"),
        ({"called": "OTHER"}, "called by another AE title"),
    ],
)
def test_an_association_by_other_names_is_rejected_and_counted(node, names, reason):
    assert not associated(node.port, **names).is_established
    node.counted(reason)


def test_a_known_title_from_another_address_is_turned_away(opened):
    peer = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.2", "port": 104}
    node = opened(peers=[peer])
    association = associated(node.port)
    node.counted("known AE title at another address")
    until = time.monotonic() + 10
    while association.is_established and time.monotonic() < until:
        time.sleep(0.05)
    assert association.is_aborted


def test_other_classes_are_not_negotiated_and_counted(node):
    association = associated(node.port, contexts=(CT, MR, DX))
    assert [c.abstract_syntax for c in association.accepted_contexts] == [DX]
    association.release()
    node.counted("SOP class or transfer syntax not taken")  # once, whatever it proposes


def test_a_class_other_than_the_context_s_is_refused_with_a_status(node):
    association, request = associated(node.port), radiograph("1.2.3")
    send = association._get_valid_context
    association._get_valid_context = lambda ab, tx, *_, **__: send(DX, tx, "scu")
    request.SOPClassUID = request.file_meta.MediaStorageSOPClassUID = CT
    assert association.send_c_store(request).Status == 0xA900
    association.release()
    assert node.counts() == {"SOP class is not that of the context": 1}
    assert node.files() == node.files("arriving") == []


def test_a_path_for_a_uid_is_refused_with_a_status(node):
    association = associated(node.port)
    request = radiograph("1.2.3")
    request.SOPInstanceUID = "../../etc/x"
    assert association.send_c_store(request).Status == 0xC000
    association.release()
    assert node.counts() == {"invalid UID": 1}


def test_an_object_too_large_is_refused_with_a_status_and_one_far_too_large_is_cut_off(opened):
    node = opened(limits={"object_bytes": 1 << 16})
    assert stored(node.port, radiograph(side=200), radiograph("1.2.3")) == [0xA700, 0]
    assert stored(node.port, radiograph(side=400)) == [None]
    assert node.counts() == {"object too large": 1, "object far too large": 1}
    assert len(node.files()) == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), LogError("away")])
def test_without_disk_or_database_the_peer_is_to_try_again(node, monkeypatch, error):
    def fails(*_):
        raise error

    where = (node.storage, "take") if isinstance(error, OSError) else (node.queue, "add")
    with monkeypatch.context() as patched:
        patched.setattr(*where, fails)
        assert stored(node.port, radiograph("1.2.3")) == [0xA700]
    assert node.files() == []
    assert stored(node.port, radiograph("1.2.3")) == [0]


def test_a_disk_that_is_nearly_full_takes_nothing(opened, monkeypatch):
    node = opened()
    limit = node.settings.limits.free_bytes
    monkeypatch.setattr(Storage, "free", property(lambda _: limit - 1))
    assert stored(node.port, radiograph("1.2.3")) == [0xA700]
    assert node.counts() == {"disk full": 1}


def test_more_associations_than_allowed_are_rejected_for_now(opened):
    node = opened(limits={"associations": 2})
    held = [associated(node.port) for _ in range(2)]
    # pynetdicom may close the connection before its rejection has gone out.
    assert not associated(node.port).is_established
    node.counted("too many associations")
    for each in held:
        each.release()


def test_a_flood_of_connections_is_closed_and_the_node_still_answers(opened):
    node = opened(limits={"associations": 1, "idle_seconds": 2})
    flood = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(12)]
    until = time.monotonic() + 15
    while node.counts().get("too many connections", 0) < 8 and time.monotonic() < until:
        time.sleep(0.1)
    assert node.counts()["too many connections"] == 8
    for each in flood:
        each.close()
    while time.monotonic() < until and not associated(node.port).is_established:
        time.sleep(0.5)
    assert time.monotonic() < until


def test_connections_that_ask_for_nothing_keep_no_place(opened):
    node = opened(limits={"associations": 1})
    for _ in range(12):  # as a monitor probes the port
        socket.create_connection(("127.0.0.1", node.port)).close()
    until = time.monotonic() + 10
    while time.monotonic() < until and not associated(node.port).is_established:
        time.sleep(0.2)
    assert time.monotonic() < until


def test_a_unit_of_four_gigabytes_ends_the_connection_at_once(node):
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as peer:
        peer.sendall(struct.pack(">BBL", 4, 0, 0xFFFF_FFFF))
        assert peer.recv(1) == b""
    node.counted("protocol data unit too large")


def test_a_slow_peer_is_cut_off(opened):
    node = opened(limits={"idle_seconds": 1})
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as peer:
        peer.sendall(struct.pack(">BBL", 1, 0, 200))
        start = time.monotonic()
        while time.monotonic() < start + 8:
            try:
                peer.sendall(b"\0")
            except OSError:
                break
            time.sleep(0.2)
        assert time.monotonic() < start + 8
    node.counted("too slow")


def test_dcmtk_sends_a_file_and_asks_for_an_echo(node, tmp_path):
    path = tmp_path / "image.dcm"
    radiograph("1.2.3").save_as(path, enforce_file_format=True)
    names = ["-aet", "ARCHIVE", "-aec", "CXRMM", "127.0.0.1", str(node.port)]
    subprocess.run([dcmtk("echoscu"), *names], check=True, timeout=60)
    subprocess.run([dcmtk("storescu"), *names, str(path)], check=True, timeout=60)
    assert node.queue.claim().sop_instance_uid == "1.2.3"


def test_a_port_in_use_is_said(node, tmp_path):
    again = node.settings
    with pytest.raises(ParamsError, match="cannot be had"):
        Receiver(again, node.storage, node.queue)


def by_tls(folder, name):
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if name:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return (context, "127.0.0.1")


def test_tls_takes_certificates_of_its_authority_alone(opened, authority):
    paths = {"certificate": "node.pem", "key": "node.key", "authority": "ca.pem"}
    node = opened(tls={k: str(authority / v) for k, v in paths.items()})
    silent = socket.create_connection(("127.0.0.1", node.port))  # holds up no one
    assert stored(node.port, radiograph("1.2.3"), tls_args=by_tls(authority, "peer")) == [0]
    for name in ("stranger", None):
        association = associated(node.port, tls_args=by_tls(authority, name))
        assert not association.is_established
    assert not associated(node.port).is_established
    silent.close()
    node.counted("TLS handshake failed", 3)


def test_half_written_files_of_broken_associations_are_removed(opened):
    node = opened(limits={"idle_seconds": 2})
    association = associated(node.port)
    broken = radiograph(side=1500)
    sent = []
    send = association.dul.send_pdu
    association.dul.send_pdu = lambda pdu: send(pdu) if sent.append(1) or len(sent) < 9 else None
    association.dimse_timeout = 1
    association.send_c_store(broken)
    association.abort()
    until = time.monotonic() + 15
    while node.files("arriving") and time.monotonic() < until:
        time.sleep(0.05)
    assert len(sent) > 9
    assert node.files("arriving") == []


def test_a_socket_whose_peer_has_gone_is_closed_too():
    connection = socket.socket()  # not connected: its shutdown fails
    transport = SimpleNamespace(socket=connection)
    close_for_good(SimpleNamespace(dul=SimpleNamespace(socket=transport)))
    transport._shutdown_socket()
    assert connection.fileno() == -1
    transport.socket = None
    transport._shutdown_socket()
