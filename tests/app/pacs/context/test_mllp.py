"""MLLP: each message gets the right acknowledgement; what is hostile ends its connection alone."""

import socket
import ssl
import time
from contextlib import contextmanager, suppress

import pytest

from app.pacs.context.book import Owner
from app.pacs.context.intake import Intake
from app.pacs.context.mllp import END, START, Listener
from app.pacs.queue.upkeep import status
from app.pacs.sections.context import ContextSettings
from app.pacs.settings import TlsSettings, calling_context, listening_context
from cxr_mm.core.errors import LogError, ParamsError
from tests.app.pacs.context.test_hl7_message import CRP, MSH, OBR, PID, message

GOOD = message(MSH, PID, OBR, CRP)


@pytest.fixture
def listening(book, queue):
    @contextmanager
    def make(tls=None, **fields):
        found = ContextSettings.model_validate({"mllp": {"port": 0, **fields}})
        with Listener(found.mllp, Intake(found, book, queue), tls) as listener:
            yield listener

    return make


def connected(listener):
    return socket.create_connection(("127.0.0.1", listener.port), timeout=10)


def answered(connection):
    data = b""
    while END not in data and (piece := connection.recv(4096)):
        data += piece
    return data.removeprefix(START).partition(END)[0].decode().split("\r")


def exchange(connection, data):
    connection.sendall(START + data + END)
    return answered(connection)[1].split("|")[1:3]


def counted(queue, what):
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if f"context: {what}" in [c["what"] for c in status(queue)["counts"]]:
            return True
        time.sleep(0.05)
    return False


def test_messages_are_acknowledged_one_by_one(listening, book):
    with listening() as listener, connected(listener) as connection:
        assert exchange(connection, GOOD) == ["AA", "M1"]
        assert exchange(connection, GOOD) == ["AA", "M1"]
        assert exchange(connection, message(MSH, OBR, CRP)) == ["AE", "M1"]
        assert exchange(connection, message(MSH.replace("ORU", "ADT"), PID)) == ["AR", "M1"]
        assert exchange(connection, b"\xff\x00junk") == ["AR", ""]
        assert exchange(connection, GOOD) == ["AA", "M1"]
    assert len(book.about(Owner("P1", ""))) == 1


def test_a_database_that_is_away_is_an_error_to_be_sent_again(listening, book, monkeypatch):
    def away(_):
        raise LogError("away")

    monkeypatch.setattr(book, "add", away)
    with listening() as listener, connected(listener) as connection:
        assert exchange(connection, GOOD) == ["AE", "M1"]


def test_a_message_without_an_end_is_cut_off(listening, queue):
    with listening(message_bytes=2000) as listener, connected(listener) as connection:
        connection.sendall(START + b"MSH|" * 700)
        assert connection.recv(10) == b""
    assert counted(queue, "message too large")


def test_a_sender_of_single_bytes_is_cut_off(listening, queue):
    with listening(idle_seconds=0.5) as listener, connected(listener) as connection:
        for _ in range(60):
            with suppress(OSError):
                connection.sendall(b"x")
            time.sleep(0.02)
    assert counted(queue, "message too slow")


def test_strangers_and_too_many_are_turned_away(listening, queue):
    with listening(senders=["10.0.0.9"]) as listener, connected(listener) as connection:
        assert connection.recv(10) == b""
    assert counted(queue, "sender is not known")
    with listening(connections=1) as listener, connected(listener) as first:
        assert exchange(first, GOOD) == ["AA", "M1"]
        with connected(listener) as second:
            assert second.recv(10) == b""
    assert counted(queue, "too many connections")


def test_a_certificate_of_the_authority_is_needed(listening, authority):
    files = {
        name: TlsSettings(
            certificate=authority / f"{name}.pem",
            key=authority / f"{name}.key",
            authority=authority / "ca.pem",
        )
        for name in ("node", "peer")
    }
    with listening(listening_context(files["node"])) as listener:
        client = calling_context(files["peer"])
        with client.wrap_socket(connected(listener), server_hostname="127.0.0.1") as secure:
            assert exchange(secure, GOOD) == ["AA", "M1"]
        bare = ssl.create_default_context(cafile=authority / "ca.pem")
        with (
            bare.wrap_socket(connected(listener), server_hostname="127.0.0.1") as insecure,
            pytest.raises((OSError, IndexError)),
        ):
            exchange(insecure, GOOD)


def test_a_port_in_use_is_said(listening):
    with (
        listening() as listener,
        pytest.raises(ParamsError) as raised,
        listening(port=listener.port),
    ):
        pass
    assert raised.value.field == "context.mllp.port"
