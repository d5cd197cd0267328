"""The node's file: what is accepted, and what is refused with its field and a remedy."""

import pytest
import yaml

from app.pacs.settings import load_node_settings
from cxr_mm.core.errors import ParamsError
from tests.app.pacs.conftest import node_fields


def load(tmp_path, fields):
    path = tmp_path / "node.yaml"
    path.write_text(fields if isinstance(fields, str) else yaml.safe_dump(fields))
    return load_node_settings(path)


def test_a_small_file_is_enough_and_paths_start_at_its_folder(tmp_path):
    rule = {"from": ["archive"], "bundle": ".", "destinations": [{"peer": "archive"}]}
    settings = load(tmp_path, node_fields(tmp_path, storage="here", rules=[rule]))
    assert settings.storage == tmp_path / "here"
    assert settings.queue_url == f"sqlite:///{tmp_path / 'here' / 'queue.db'}"
    assert settings.rules[0].senders == ("archive",)
    assert settings.bundles == (tmp_path / ".",)
    assert settings.rules[0].destinations[0].objects == ("sr", "gsps", "sc")
    assert settings.caller("ARCHIVE ").name == "archive"
    assert settings.caller("OTHER") is None


REFUSE = {"refuse": "no"}
PEER = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 11113}
TO = [{"peer": "archive"}]
FAULTS = [
    ({"prot": 1}, "prot", "there is no such field"),
    ({"port": 0}, "port", "greater than or equal to 1"),
    ({"ae_title": "SEVENTEEN_LETTERS"}, "ae_title", "1 to 16 ASCII"),
    ({"ae_title": "A\\B"}, "ae_title", "no backslash"),
    ({"rules": []}, "rules", "at least 1"),
    ({"rules": [{"destinations": TO}]}, "rules.0", "either a bundle or a reason"),
    ({"rules": [{"bundle": ".", "refuse": "no"}]}, "rules.0", "either a bundle or a reason"),
    ({"rules": [{"bundle": "."}]}, "rules.0", "needs a destination"),
    ({"rules": [REFUSE | {"from": ["ward"]}]}, "top level", "rule 1 names no peer 'ward'"),
    ({"rules": [REFUSE | {"destinations": [{"peer": "x"}]}]}, "top level", "no peer 'x'"),
    ({"rules": [REFUSE | {"destinations": [TO[0] | {"objects": ["png"]}]}]}, "objects", "'sr'"),
    ({"rules": [REFUSE | {"destinations": [TO[0] | {"objects": ["fhir"]}]}]}, "top", "no `fhir`"),
    ({"peers": [{"name": "archive", "fhir": {"folder": "out"}}]}, "top", "`objects: [fhir]`"),
    ({"peers": [{"name": "archive", "fhir": {}}]}, "peers.0.fhir", "a server or a folder"),
    ({"peers": [PEER | {"fhir": {"folder": "out"}}]}, "peers.0", "has neither ae_title"),
    ({"peers": [{"name": "archive"}]}, "peers.0", "or `fhir`"),
    ({"host": "0.0.0.0"}, "top level", "clear_text: true"),
    ({"tls": {"certificate": "a", "key": "b"}}, "tls.authority", "it is missing"),
    ({"limits": {"associations": 0}}, "limits.associations", "greater than or equal"),
]


@pytest.mark.parametrize(("changed", "field", "message"), FAULTS)
def test_a_fault_names_its_field(tmp_path, changed, field, message):
    with pytest.raises(ParamsError) as raised:
        load(tmp_path, node_fields(tmp_path, **changed))
    assert field in raised.value.field
    assert message in raised.value.message
    assert raised.value.remedy


def test_two_peers_never_share_a_title(tmp_path):
    peers = node_fields(tmp_path)["peers"] * 2
    peers[1] = peers[1] | {"name": "other"}
    with pytest.raises(ParamsError, match="two peers have the ae_title 'ARCHIVE'"):
        load(tmp_path, node_fields(tmp_path, peers=peers))


def test_a_peer_by_tls_needs_certificates_of_the_node(tmp_path):
    peers = [node_fields(tmp_path)["peers"][0] | {"tls": True}]
    with pytest.raises(ParamsError, match="names no certificate"):
        load(tmp_path, node_fields(tmp_path, peers=peers))


@pytest.mark.parametrize("text", ["a: [", "\x00"])
def test_what_is_no_yaml_is_refused(tmp_path, text):
    with pytest.raises(ParamsError, match="not YAML"):
        load(tmp_path, text)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ParamsError, match="cannot be read"):
        load_node_settings(tmp_path / "none.yaml")
    rule = {"bundle": "gone", "destinations": TO}
    with pytest.raises(ParamsError, match="no such bundle"):
        load(tmp_path, node_fields(tmp_path, rules=[rule]))
    tls = {"certificate": "a.pem", "key": "a.key", "authority": "ca.pem"}
    with pytest.raises(ParamsError, match="certificates cannot be used"):
        load(tmp_path, node_fields(tmp_path, tls=tls))


WEB = {"name": "web", "web": {"url": "https://pacs.example.org/dicom-web"}}
PEERS = [
    ([{**WEB, "name": "page"}], "stored through the page's server"),
    ([{"name": "a", "ae_title": "A"}], "needs ae_title, host and port"),
    ([{"name": "a"}], "or `web`, or both"),
    ([{"name": "a", "web": WEB["web"] | {"send": False}}], "sent by C-STORE"),
]


@pytest.mark.parametrize(("peers", "message"), PEERS)
def test_a_peer_can_be_reached(tmp_path, peers, message):
    with pytest.raises(ParamsError, match=message):
        load(tmp_path, node_fields(tmp_path, peers=peers))


def test_peers_of_the_web_need_no_title_and_their_secrets_are_checked(tmp_path):
    peers = [node_fields(tmp_path)["peers"][0], WEB, {**WEB, "name": "other"}]
    rule = {"from": ["page", "web"], "bundle": ".", "destinations": [{"peer": "web"}]}
    settings = load(tmp_path, node_fields(tmp_path, peers=peers, rules=[rule]))
    assert [peer.sent_by_web for peer in settings.peers] == [False, True, True]
    peers[1] = {"name": "web", "web": WEB["web"] | {"sign_in": "bearer", "secret_file": "none"}}
    with pytest.raises(ParamsError, match="secret cannot be read") as raised:
        load(tmp_path, node_fields(tmp_path, peers=peers, rules=[rule]))
    assert raised.value.field == str(tmp_path / "none")
    page = [{"refuse": "no", "destinations": [{"peer": "page"}]}]
    with pytest.raises(ParamsError, match="no destination"):
        load(tmp_path, node_fields(tmp_path, rules=page))


DROP = {"folders": [{"path": "drop", "format": "csv"}]}
MLLP = {"mllp": {"host": "0.0.0.0"}}
CONTEXTS = [
    ({"rules": [REFUSE | {"answer_again": True}]}, "cannot answer again"),
    ({"rules": [{"bundle": ".", "destinations": TO, "answer_again": True}]}, "no `context`"),
    ({"context": DROP}, "no such folder"),
    ({"context": MLLP}, "context.mllp: 0.0.0.0 can be reached"),
    ({"context": {"mllp": {"tls": True}}}, "context.mllp listens by TLS"),
    ({"context": {"mllp": {"senders": ["ward"]}}}, "does not appear to be an IPv4"),
    ({"context": {"time_zone": "../../etc/passwd"}}, "no time zone"),
    ({"context": {"fhir_servers": [{"url": "http://fhir.example.org"}]}}, "https alone"),
]


@pytest.mark.parametrize(("changed", "message"), CONTEXTS)
def test_a_fault_of_the_context_is_said(tmp_path, changed, message):
    with pytest.raises(ParamsError) as raised:
        load(tmp_path, node_fields(tmp_path, **changed))
    assert message in raised.value.message


def test_folders_of_the_context_start_at_the_file(tmp_path):
    (tmp_path / "drop").mkdir()
    settings = load(tmp_path, node_fields(tmp_path, context=DROP))
    assert settings.context.folders[0].path == tmp_path / "drop"
