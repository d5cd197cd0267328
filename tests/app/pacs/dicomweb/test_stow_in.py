"""STOW-RS through the page's server: behind its sign-in, into the node's queue, as the standard
answers it."""

import pytest
import yaml
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.pacs.dicomweb import stow_in
from app.pacs.dicomweb.stow_in import STUDIES, Store
from app.pacs.queue import Queue
from app.pacs.queue.upkeep import status
from app.security.auth import add_user
from cxr_mm.core.errors import LogError
from cxr_mm.inference.predictor import load_predictor
from tests.app.pacs.conftest import DX, node_fields, radiograph
from tests.app.pacs.dicomweb.conftest import bytes_of, multipart
from tests.app.test_server import served, signed_in

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'")


@pytest.fixture
def node_file(tmp_path):
    limits = {"object_bytes": 1 << 20}
    file = tmp_path / "node.yaml"
    file.write_text(yaml.safe_dump(node_fields(tmp_path, limits=limits)))
    return file


@pytest.fixture
def client(node_file):
    with Store(node_file) as stored, TestClient(Starlette(routes=stored.routes())) as opened:
        yield opened


@pytest.fixture
def listed(client, tmp_path):
    opened = Queue(f"sqlite:///{tmp_path / 'node' / 'queue.db'}")
    yield opened
    opened.close()


def store(client, *parts, path=STUDIES, **options):
    body, kind = multipart(*parts, **options)
    return client.post(path, content=body, headers={"Content-Type": kind})


def uids(answer, tag):
    return [item["00081155"]["Value"][0] for item in answer.json()[tag]["Value"]]


def reasons(answer):
    return [item["00081197"]["Value"][0] for item in answer.json()["00081198"]["Value"]]


def counts(queue):
    return {c["what"]: c["number"] for c in status(queue)["counts"]}


def test_what_is_stored_is_listed_once(client, listed, tmp_path):
    images = [radiograph(f"1.2.{n}", seed=n) for n in (1, 2)]
    answer = store(client, *map(bytes_of, images))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/dicom+json"
    assert uids(answer, "00081199") == ["1.2.1", "1.2.2"]
    assert "00081198" not in answer.json()
    again = store(client, bytes_of(images[0]), path=f"{STUDIES}/{images[0].StudyInstanceUID}")
    assert again.status_code == 200
    assert status(listed)["received"] == {"received": 2}
    assert counts(listed) == {"repeat": 1}
    first = listed.claim()
    assert (first.peer, first.sop_class_uid) == ("page", DX)
    assert (tmp_path / "node" / first.file).read_bytes() == bytes_of(images[0])
    assert list((tmp_path / "node/arriving").iterdir()) == []


def test_some_are_refused_with_their_reasons(client, listed):
    report = radiograph("1.2.3", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.34")
    path_like = radiograph("1.2.4")
    path_like.SOPInstanceUID = "../../etc"
    large = radiograph("1.2.5", side=800)
    answer = store(
        client,
        bytes_of(radiograph("1.2.1")),
        bytes_of(report),
        bytes_of(path_like),
        bytes_of(large),
        b"junk" * 100,
    )
    assert answer.status_code == 202
    assert uids(answer, "00081199") == ["1.2.1"]
    assert reasons(answer) == [0x0122, 0xC000, 0xA700, 0xC000]
    assert status(listed)["received"] == {"received": 1}
    assert counts(listed) == {
        "SOP class not taken": 1,
        "invalid UID": 1,
        "object too large": 1,
        "unreadable header": 1,
    }


def test_none_stored_is_a_conflict(client):
    answer = store(client, bytes_of(radiograph("1.2.1")), path=f"{STUDIES}/1.2.99")
    assert answer.status_code == 409
    assert reasons(answer) == [0x0110]
    assert uids(answer, "00081198") == ["1.2.1"]
    assert store(client, b"{}", kind="application/dicom+json").status_code == 409


def test_a_body_that_is_none_is_bad(client, listed):
    assert client.post(STUDIES, content=b"x").status_code == 400
    assert store(client).status_code == 400
    body, kind = multipart(bytes_of(radiograph("1.2.1")))
    cut = client.post(STUDIES, content=body[:-20], headers={"Content-Type": kind})
    assert cut.status_code == 400
    assert status(listed)["received"] == {}


def test_a_queue_that_is_away_is_said_and_leaves_nothing(client, tmp_path, monkeypatch):
    def away(*_):
        raise LogError("away")

    monkeypatch.setattr(stow_in.Queue, "add", away)
    answer = store(client, bytes_of(radiograph("1.2.1")))
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "30"
    assert list((tmp_path / "node/received").iterdir()) == []


def test_a_full_disk_is_said(client, monkeypatch):
    monkeypatch.setattr(stow_in.Storage, "free", 0)
    assert store(client, bytes_of(radiograph("1.2.1"))).status_code == 503


def test_it_is_behind_sign_in_origin_and_limits(node_file, bundle_folder, tmp_path):
    users = tmp_path / "users.txt"
    add_user(users, "ada", "correct horse battery")
    image = bytes_of(radiograph("1.2.1"))
    with served(load_predictor(bundle_folder), users=users, node=node_file) as (client, _):
        assert store(client, image).status_code == 401
        client.auth = ("ada", "correct horse battery")
        assert store(client, image).status_code == 200
        client.auth = None
        assert store(client, image).status_code == 401
        signed_in(client)
        assert store(client, image).status_code == 200
        assert store(client, image, path=f"{STUDIES}/..%2f..").status_code in (404, 409)
        assert client.get(STUDIES).status_code == 404
        body, kind = multipart(image)
        headers = {"Content-Type": kind, "Origin": "https://elsewhere.example"}
        assert client.post(STUDIES, content=body, headers=headers).status_code == 403


def test_without_a_node_there_is_no_such_page(bundle_folder):
    with served(load_predictor(bundle_folder)) as (client, _):
        assert store(client, b"x").status_code == 404
