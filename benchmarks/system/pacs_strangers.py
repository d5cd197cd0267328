"""Peers of a node that hold connections open, and those that may not speak with it at all."""

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import trustme
from pydicom.dataset import Dataset

from benchmarks.harness.parts import Row
from benchmarks.system.pacs_hostile import recorded
from benchmarks.system.pacs_peers import (
    Watched,
    asked_for,
    awaited,
    is_stored,
    listening,
    node_command,
    node_file,
    renamed,
)

SLOW, SILENT, FLOOD, CALLS = 30, 30, 500, 20
"""Connections that send a byte now and then, associations that stay silent, connections of a flood,
and calls of each kind of stranger."""
BYTE_SECONDS = 0.3
WAITS = 3
"""Times `idle_seconds` within which a proper image must be accepted."""
ENDS = 60.0
"""Seconds within which an image is answered, and threads and files come back."""
TLS_FILES = {"certificate": "node.pem", "key": "node.key", "authority": "ca.pem"}


def besieged(node: Watched, image: Dataset, idle: float, facts: dict[str, Any]) -> Iterator[Row]:
    """Have slow and silent peers, and then a flood, hold connections while an image is sent.

    Args:
        idle: `idle_seconds` of the node.
        facts: of each row.
    """
    request = recorded(node.port, renamed(image))[0]
    with _silent(node.port, request, SILENT):
        pass  # so that what the node keeps once for all is there
    sieges = {
        f"{SLOW} slow and {SILENT} silent peers": (SLOW, SILENT),
        f"flood of {FLOOD} associations": (0, FLOOD),
    }
    for name, (slow, silent) in sieges.items():
        before = node.handles()
        with _dripping(node.port, request, slow), _silent(node.port, request, silent):
            taken = awaited(lambda: is_stored(node.port, renamed(image)), WAITS * idle)
            answered = node.is_answered(renamed(image), ENDS)
        kept = _kept(node, before)
        common = {**facts, "row": name, "n": slow + silent, "must": 0, "ceiling": True}
        metric = f"images not accepted within {WAITS} × idle_seconds"
        yield Row(metric=metric, value=1 - taken, **common)
        yield Row(metric="images not answered", value=1 - answered, **common)
        yield Row(metric="threads and file descriptors that stay", value=kept, **common)


def _kept(node: Watched, before: int) -> int:
    """Threads and file descriptors that do not come back."""
    awaited(lambda: node.handles() <= before, ENDS)
    return max(0, node.handles() - before)


@contextmanager
def _silent(port: int, request: bytes, number: int) -> Iterator[Sequence[socket.socket]]:
    """Connections that ask for an association, if anything, and then say nothing."""
    with ExitStack() as stack:
        peers = []
        for _ in range(number):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), ENDS))
            with suppress(OSError):  # the node may have closed it already
                peer.sendall(request)
            peers.append(peer)
        yield peers


@contextmanager
def _dripping(port: int, request: bytes, number: int) -> Iterator[None]:
    """Connections that ask for an association byte by byte."""
    stop = threading.Event()

    def drip() -> None:
        for byte in request:
            for peer in peers:
                with suppress(OSError):
                    peer.sendall(bytes([byte]))
            if stop.wait(BYTE_SECONDS):
                return

    with _silent(port, b"", number) as peers:
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def strangers(node: Watched, facts: dict[str, Any]) -> Iterator[Row]:
    """Call by a wrong name of oneself or of the node."""
    for name, names, reason in (
        ("wrong calling AE title", {"title": "STRANGER"}, "unknown AE title"),
        ("wrong called AE title", {"called": "OTHER"}, "called by another AE title"),
    ):
        yield from _turned_away(node, {**facts, "row": name}, reason, names)


def without_certificate(
    folder: Path, bundle: Path, image: Dataset, archive: int, facts: dict[str, Any]
) -> Iterator[Row]:
    """Call a node that demands certificates with one of another authority, none, and no TLS.

    Args:
        folder: of node and certificates; made here.
        archive: port of the archive.
        facts: of each row.
    """
    folder.mkdir()
    _issue(folder)
    tls = {name: str(folder / file) for name, file in TLS_FILES.items()}
    port, file = node_file(folder / "node", bundle, archive, tls=tls)
    queue = f"sqlite:///{folder / 'node' / 'storage' / 'queue.db'}"
    with listening(node_command(file), port) as process:
        node = Watched(port, process, queue)
        reason = "TLS handshake failed"
        for name, options in (
            ("certificate of another authority", {"tls_args": _shown(folder, "stranger")}),
            ("no certificate", {"tls_args": _shown(folder, "")}),
            ("plain text to a port with TLS", {}),
        ):
            yield from _turned_away(node, {**facts, "row": name}, reason, options)
        taken = is_stored(port, renamed(image), tls_args=_shown(folder, "peer"))
    row = {**facts, "row": "certificate of the authority", "n": 1, "must": 0, "ceiling": True}
    yield Row(metric="images not accepted", value=1 - taken, **row)


def _turned_away(
    node: Watched, facts: dict[str, Any], reason: str, options: dict[str, Any]
) -> Iterator[Row]:
    """Call the node in one way: how many get in, and how many refusals are not counted."""
    before = node.counts()[reason]
    calls = [asked_for(node.port, **options) for _ in range(CALLS)]
    let_in = sum(call.is_established for call in calls)
    awaited(lambda: node.counts()[reason] >= before + CALLS, ENDS)
    missing = abs(node.counts()[reason] - before - CALLS)
    common = {**facts, "n": CALLS, "must": 0, "ceiling": True}
    yield Row(metric="associations let in", value=let_in, **common)
    yield Row(metric="refusals beyond or below one counted for each", value=missing, **common)


def _issue(folder: Path) -> None:
    """Certificates of one authority for the node and a peer, and a stranger's of another."""
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(folder / "ca.pem")
    for name, authority in (("node", ours), ("peer", ours), ("stranger", other)):
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        for blob in issued.cert_chain_pems:
            blob.write_to_path(folder / f"{name}.pem", append=True)


def _shown(folder: Path, name: str) -> tuple[ssl.SSLContext, str]:
    """TLS of a peer that shows a certificate, or none."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if name:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context, "127.0.0.1"
