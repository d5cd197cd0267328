"""Delivery of FHIR: each transaction to a server, or into a folder."""

import json
from pathlib import Path
from typing import Any

from app.pacs.dicomweb.client import JSON_BYTES, AwayError, DeclinedError, HttpClient, parsed
from app.pacs.dicomweb.request_sender import RequestSender
from app.pacs.queue import Delivery
from app.pacs.sender import EchoResult
from app.pacs.settings import NodeSettings, Peer, calling_context
from app.pacs.storage import sync
from cxr_mm.core.errors import StorageError
from cxr_mm.core.files import atomic_write

JSON = "application/fhir+json"
VERSION = "4."
"""Beginning of the versions that R4 and R4B have."""


class FhirSender(RequestSender):
    """Sends each transaction to a server, or into a folder; its peer has `fhir`."""

    def _prepare(self) -> None:
        assert self._peer.fhir is not None
        self._folder, server = self._peer.fhir.folder, self._peer.fhir.server
        self._client = HttpClient(server, self._tls) if server else None

    def _put(self, delivery: Delivery, data: bytes) -> None:
        if self._client is not None:
            post(self._client, data)
        if self._folder is not None:
            _write(self._folder / f"{delivery.sop_instance_uid}.json", data)


def post(client: HttpClient, data: bytes) -> None:
    """Have a server carry out a transaction.

    Raises:
        AwayError: there is no answer.
        DeclinedError: it was not carried out.
    """
    headers = {"Content-Type": JSON, "Accept": JSON}
    with client.asking("POST", "", headers=headers, content=data) as answer:
        if answer.status != 200:
            raise DeclinedError(f"the server answers {answer.status}")
        answered = parsed(b"".join(answer.pieces(JSON_BYTES)))
    done = [_status(entry) for entry in _entries(answered)]
    expected = len(json.loads(data)["entry"])
    if len(done) != expected or not all(status.startswith("2") for status in done):
        raise DeclinedError("the server did not carry out the transaction")


def ask_for_fhir(settings: NodeSettings, peer: Peer) -> EchoResult:
    """Ask a destination which version of FHIR it has, or whether its folder can be written.

    Raises:
        ParamsError: certificate or secret cannot be used.
    """
    assert peer.fhir is not None
    try:
        if peer.fhir.server is None:
            assert peer.fhir.folder is not None
            _write(peer.fhir.folder / ".test", b"")
            (peer.fhir.folder / ".test").unlink()
            return EchoResult(True, "the folder can be written")
        tls = calling_context(settings.tls) if settings.tls and peer.tls else None
        with HttpClient(peer.fhir.server, tls) as client:
            found = client.json("/metadata", accept=JSON)
    except (AwayError, DeclinedError) as error:
        return EchoResult(False, str(error))
    version = str(found.get("fhirVersion")) if isinstance(found, dict) else "none"
    return EchoResult(version.startswith(VERSION), f"FHIR {version[:20]} answers")


def _write(path: Path, data: bytes) -> None:
    """Write a file whole; when this returns, it survives a power cut.

    Raises:
        AwayError: it cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
            sync(temporary)
        sync(path.parent)
    except (StorageError, OSError) as error:
        raise AwayError(f"the folder cannot be written ({type(error).__name__})") from error


def _entries(answer: Any) -> list[Any]:
    entries = answer.get("entry") if isinstance(answer, dict) else None
    return entries if isinstance(entries, list) else []


def _status(entry: Any) -> str:
    response = entry.get("response") if isinstance(entry, dict) else None
    return str(response.get("status")) if isinstance(response, dict) else ""
