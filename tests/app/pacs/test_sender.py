"""The sender: by TLS to who shows a certificate of the authority, and never to another."""

import ssl

import pytest
from pynetdicom import AE

from app.pacs.objects.sop_classes import SOP_CLASSES
from app.pacs.sender import EchoResult, ask_for_echo
from app.pacs.settings import NodeSettings
from benchmarks.system.pacs_peers import free_port
from tests.app.pacs.conftest import VERIFICATION, node_fields


def listening(folder, name, port):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    entity = AE("ARCHIVE")
    entity.add_supported_context(VERIFICATION)
    for each in list(SOP_CLASSES.values())[:2]:
        entity.add_supported_context(each)
    return entity.start_server(("127.0.0.1", port), block=False, ssl_context=context)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("peer", EchoResult(False, "echo answered, does not take sc")),
        ("stranger", EchoResult(False, "the destination cannot be reached")),
    ],
)
def test_an_echo_by_tls_says_what_the_peer_takes(authority, tmp_path, name, expected):
    paths = {"certificate": "node.pem", "key": "node.key", "authority": "ca.pem"}
    fields = node_fields(tmp_path, tls={k: str(authority / v) for k, v in paths.items()})
    fields["peers"][0] |= {"tls": True, "port": free_port()}
    settings = NodeSettings.model_validate(fields)
    server = listening(authority, name, settings.peers[0].port)
    try:
        assert ask_for_echo(settings, settings.peers[0]) == expected
    finally:
        server.shutdown()


def test_a_peer_that_is_away_is_said(settings):
    away = settings.peers[0].model_copy(update={"port": free_port()})
    assert ask_for_echo(settings, away) == EchoResult(False, "the destination cannot be reached")
