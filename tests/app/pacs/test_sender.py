"""The sender: by TLS to who shows a certificate of the authority, and never to another."""

import ssl

import pytest
import trustme
from pynetdicom import AE

from app.pacs.objects import SOP_CLASSES
from app.pacs.sender import EchoResult, ask_for_echo
from app.pacs.settings import NodeSettings
from tests.app.pacs.conftest import VERIFICATION, free_port, node_fields


@pytest.fixture
def certificates(tmp_path):
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, signer in (("node", ours), ("peer", ours), ("stranger", other)):
        issued = signer.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        for blob in issued.cert_chain_pems:
            blob.write_to_path(tmp_path / f"{name}.pem", append=True)
    return tmp_path


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
def test_an_echo_by_tls_says_what_the_peer_takes(certificates, tmp_path, name, expected):
    paths = {"certificate": "node.pem", "key": "node.key", "authority": "ca.pem"}
    fields = node_fields(tmp_path, tls={k: str(certificates / v) for k, v in paths.items()})
    fields["peers"][0] |= {"tls": True, "port": free_port()}
    settings = NodeSettings.model_validate(fields)
    server = listening(certificates, name, settings.peers[0].port)
    try:
        assert ask_for_echo(settings, settings.peers[0]) == expected
    finally:
        server.shutdown()


def test_a_peer_that_is_away_is_said(settings):
    away = settings.peers[0].model_copy(update={"port": free_port()})
    assert ask_for_echo(settings, away) == EchoResult(False, "the destination cannot be reached")
