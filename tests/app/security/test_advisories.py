"""Advisories: each known class of attack on Gradio, tried on the real application over HTTP.

https://github.com/gradio-app/gradio/security/advisories
"""

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import uvicorn
from starlette.testclient import TestClient

from app.metrics import Metrics
from app.security.auth import add_user
from app.server import MountedPage, application, upload_folder
from app.service import InstrumentedService
from app.settings import Limits, Settings
from app.ui import page
from cxr_mm.inference.predictor import load_predictor

# Gradio sets an option that pandas is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'")

SECRET = "the content of a file that was never uploaded"
LIMITS = Limits(10_000, 10_000, file_bytes=100_000, upload_bytes=250_000, request_bytes=50_000)


@dataclass
class Site:
    """A server on a port of its own, asked byte for byte: no client tidies the path."""

    port: int
    uploads: Path
    place: MountedPage

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.text = answer.read().decode("utf-8", "replace")
        connection.close()
        return answer

    def post(self, path, said):
        return self.ask("POST", path, json.dumps(said), Content_Type="application/json")

    def upload(self, name, content):
        body = (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n--b--'
        ) % (name.encode(), content)
        kind = "multipart/form-data; boundary=b"
        return self.ask("POST", "/gradio_api/upload", body, Content_Type=kind)

    def hand_in(self, file, path="/gradio_api/queue/join"):
        """Give the first event that takes a file this one."""
        return self.post(path, given(self.place, file))


def given(place, file):
    blocks = place.blocks
    taken = {id_ for id_, block in blocks.blocks.items() if block.get_block_name() == "file"}
    fn = next(f for f in blocks.fns.values() if f.fn and f.inputs and f.inputs[0]._id in taken)
    data = [file, *[None] * (len(fn.inputs) - 1)]
    return {"data": data, "fn_index": fn._id, "session_hash": "attack"}


@pytest.fixture(scope="module")
def service(bundle_folder):
    return InstrumentedService(load_predictor(bundle_folder), None, Metrics())


@pytest.fixture(scope="module")
def site(service):
    settings = Settings(bundles=(), limits=LIMITS)
    with upload_folder() as uploads, socket.create_server(("127.0.0.1", 0)) as listening:
        mounted = MountedPage("/", service, page.build(service))
        app = application(settings, [mounted], uploads, Metrics())
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", proxy_headers=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield Site(listening.getsockname()[1], uploads, mounted)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / "secret.txt"
    path.write_text(SECRET)
    return path


def outside(secret, uploads):
    """Names of a file outside the uploads, as the advisories write them."""
    up = "/".join([".."] * 12)
    return [
        str(secret),
        f"/{secret}",
        f"{uploads}/{up}{secret}",
        f"{uploads}/./{up}{secret}",
        f"{up}{secret}",
        f"file://{secret}",
        f"file:{secret}",
        str(secret).upper(),
        "C:/Windows/win.ini",
        "C:\\Windows\\win.ini",
        "\\\\attacker.example\\share\\image.png",
        "//attacker.example/share/image.png",
        str(Path(__file__)),
        "pyproject.toml",
        f"{secret}\0.png",
    ]


def test_no_file_but_an_uploaded_one_is_served(site, secret):
    """CVE-2021-43831, GHSA-3qqg-pgqq-3695, CVE-2023-51449, CVE-2024-47164, CVE-2024-34510."""
    for name in outside(secret, site.uploads):
        for path in (name, quote(name), quote(name, safe=""), quote(quote(name, safe=""))):
            for route in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/file/"):
                if any(ord(letter) <= 32 for letter in path):
                    continue
                answer = site.ask("GET", route + path)
                assert answer.status in (400, 403, 404), (route, path)
                assert SECRET not in answer.text


def test_a_link_among_the_uploads_leads_nowhere(site, secret):
    """The check of a path is worth what it resolves to: CVE-2024-47164."""
    link = site.uploads / "image.png"
    link.symlink_to(secret)
    assert site.ask("GET", f"/gradio_api/file={link}").status == 404
    link.unlink()


@pytest.mark.parametrize("folder", ["static", "assets", "svelte"])
def test_no_file_is_read_through_the_assets(site, secret, folder):
    """CVE-2026-28414 (absolute paths below /static), CVE-2024-47166 (/custom_component)."""
    up = "/".join([".."] * 20)
    for name in (str(secret), f"{up}{secret}", f"..%2f..%2f..{secret}", f"%2e%2e/{up}{secret}"):
        answer = site.ask("GET", f"/{folder}/{name}")
        assert answer.status in (403, 404)
        assert SECRET not in answer.text
    assert (
        site.ask("GET", f"/gradio_api/custom_component/x/client/{folder}/__init__.py").status == 404
    )


NAMES = (
    "../../../../tmp/escaped.png ..\\\\..\\\\escaped.png /tmp/escaped.png C:\\\\escaped.png .. . "
    "%2e%2e%2fescaped.png"
)


@pytest.mark.parametrize("name", [*NAMES.split(), "a" * 300])
def test_an_upload_stays_among_the_uploads_whatever_its_name(site, name):
    """CVE-2024-1728 and its kin: the name of an upload names a place elsewhere."""
    answer = site.upload(name, b"image")
    if answer.status == 200:
        (path,) = json.loads(answer.text)
        assert Path(path).resolve().is_relative_to(site.uploads)
        assert ".." not in Path(path).parts
    else:
        assert answer.status in (400, 500)
    assert not Path("/tmp/escaped.png").exists()


def file_data(path, **more):
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def test_a_file_that_was_not_uploaded_cannot_be_handed_to_the_page(site, secret):
    """CVE-2024-0964, CVE-2024-1728, CVE-2024-51751, GHSA-rhm9-gp5p-5248, CVE-2026-49119."""
    for name in outside(secret, site.uploads):
        for value in (file_data(name), [file_data(name)], {"deep": [{"er": file_data(name)}]}):
            for path in ("queue/join", "run/predict", "call/predict", "call/v2/predict"):
                assert site.hand_in(value, f"/gradio_api/{path}").status == 403, name


def test_the_page_itself_checks_too_though_it_is_mounted(service, secret):
    """CVE-2024-0964 behind the gate: Gradio skips its check where a page was not launched."""
    with upload_folder() as uploads:
        mounted = MountedPage("/", service, page.build(service))
        application(Settings(bundles=()), [mounted], uploads, Metrics())
        with TestClient(mounted.blocks.app) as inner:
            inner.get("/gradio_api/startup-events")
            result = given(mounted, file_data(str(secret)))
            assert inner.post("/gradio_api/queue/join", json=result).is_success
            message = inner.get("/gradio_api/queue/data?session_hash=attack").text
        assert '"success":false' in message
        found = [path.read_bytes() for path in uploads.rglob("*") if path.is_file()]
        assert not [content for content in found if SECRET.encode() in content]


def test_a_bare_path_is_no_file(site, secret):
    """CVE-2024-51751 through the call for programs, which hands over plain values."""
    requested = site.post("/gradio_api/call/predict", {"data": [str(secret), None, "", "", ""]})
    event = json.loads(requested.text)["event_id"]
    message = site.ask("GET", f"/gradio_api/call/predict/{event}").text
    assert "event: error" in message
    assert SECRET not in message
    assert "secret" not in message


def test_an_uploaded_file_can_be_handed_in(site):
    """What the attacks above are measured against."""
    (path,) = json.loads(site.upload("image.png", b"no image").text)
    assert site.hand_in(file_data(path)).status == 200


URLS = (
    "http://169.254.169.254/latest/meta-data/ http://127.0.0.1:22/ http://[::1]/ "
    "http://0177.0.0.1/ https://example.com/image.png HTTP://example.com/image.png "
    "ftp://example.com/image.png"
)


@pytest.mark.parametrize("url", URLS.split())
def test_the_server_fetches_nothing_from_elsewhere(site, url):
    """CVE-2023-51449, CVE-2024-4325, CVE-2024-47167, CVE-2026-28416, CVE-2026-59806."""
    assert site.hand_in(file_data(url)).status == 403
    assert site.hand_in(file_data(url, url=url)).status == 403
    for route in ("/gradio_api/file=", "/gradio_api/proxy=", "/file=", "/proxy="):
        for path in (url, quote(url, safe="")):
            answer = site.ask("GET", route + path)
            assert answer.status == 404
            assert answer.getheader("Location") is None


def test_an_upload_is_never_run_by_the_browser(site):
    """CVE-2024-47872: HTML, SVG or JavaScript that another user opens."""
    for name in ("image.html", "image.svg", "image.js", "image.xhtml"):
        (path,) = json.loads(site.upload(name, b"<script>alert(1)</script>").text)
        answer = site.ask("GET", f"/gradio_api/file={path}")
        assert answer.getheader("Content-Disposition").startswith("attachment")
        assert answer.getheader("Content-Type") == "application/octet-stream"
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert "sandbox" in answer.getheader("Content-Security-Policy")


CLOSED = {
    "GET": "/monitoring /monitoring/summary /monitoring/x/dashboard /gradio_api/dev/reload "
    "/dev/reload /gradio_api/deep_link?session_hash=attack /gradio_api/runs /gradio_api/token "
    "/gradio_api/openapi.json /gradio_api/mcp/schema /logout /login/huggingface /openapi.json",
    "POST": "/gradio_api/component_server /gradio_api/vibe-edit /gradio_api/undo-vibe-edit /login "
    "/gradio_api/run-history/connect /gradio_api/process_recording /gradio_api/stream/x "
    "/gradio_api/api/predict",
    "PUT": "/",
    "TRACE": "/",
}


@pytest.mark.parametrize(("method", "path"), [(m, p) for m in CLOSED for p in CLOSED[m].split()])
def test_what_the_page_does_not_need_is_closed(site, method, path):
    """CVE-2024-1561, CVE-2024-34511, CVE-2024-47168, CVE-2026-27167, CVE-2026-28415."""
    body = '{"component_id": 1, "data": "/etc/passwd", "fn_name": "x", "session_hash": "a"}'
    answer = site.ask(method, path, body if method == "POST" else None)
    assert answer.status == 404


def test_a_made_up_deep_link_shows_nothing_but_the_page(site):
    """A state.json that was uploaded is no saved page."""
    content = b'[{"id": 1, "props": {"value": "planted"}}]'
    (path,) = json.loads(site.upload("state.json", content).text)
    folder = Path(path).parent.name
    for link in (f"../{folder}", folder, f"..%2F{folder}"):
        assert "planted" not in site.ask("GET", f"/?deep_link={link}").text
        assert "planted" not in site.ask("GET", f"/config?deep_link={link}").text


@pytest.mark.parametrize(
    "origin", ["null", "https://attacker.example", "http://localhost.attacker"]
)
def test_a_page_of_another_site_reaches_nothing(site, origin):
    """CVE-2024-1727, CVE-2024-47084, CVE-2024-47165, CVE-2025-5320."""
    for method, path in (("GET", "/config"), ("POST", "/gradio_api/upload"), ("OPTIONS", "/")):
        answer = site.ask(
            method, path, Origin=origin, Access_Control_Request_Method="POST", Cookie="a=b"
        )
        assert answer.status == 403
        assert answer.getheader("Access-Control-Allow-Origin") is None


def test_a_name_bound_to_this_machine_by_another_site_reaches_nothing(site):
    """DNS rebinding."""
    assert site.ask("GET", "/config", Host=f"attacker.example:{site.port}").status == 421


@pytest.mark.parametrize("header", ["X-Forwarded-Host", "X-Gradio-Server", "Forwarded"])
def test_nobody_sends_the_page_elsewhere(site, header):
    """Open redirects (PYSEC-2026-1414) and a root that a header makes up."""
    for path in ("/", "/config"):
        answer = site.ask("GET", path, **{header.replace("-", "_"): "attacker.example"})
        assert answer.status == 200
        assert "attacker" not in answer.text
    for path in ("//attacker.example", "//attacker.example/..", "/\\attacker.example", "/%5cx"):
        answer = site.ask("GET", path)
        assert answer.status in (400, 404)
        assert answer.getheader("Location") is None


@pytest.mark.parametrize("length", [None, "right"])
def test_no_more_is_taken_than_allowed(site, length):
    """Denial of service through the body: as CVE-2024-8966 and kin."""
    for size, status in ((99_000, 200), (101_000, 413), (400_000, 413)):
        before = kept(site.uploads)
        body = (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="f"\r\n\r\n%s\r\n--b--'
        ) % os.urandom(size)
        sent = body if length else (body[i : i + 9000] for i in range(0, len(body), 9000))
        kind = "multipart/form-data; boundary=b"
        try:
            answer = site.ask("POST", "/gradio_api/upload", sent, Content_Type=kind)
        except (BrokenPipeError, ConnectionResetError):
            answer = None  # hung up on while it was still sending
        if answer is not None or status == 200:
            assert answer.status == status
        assert kept(site.uploads) - before <= (size if status == 200 else 0) + 200
    assert site.post("/gradio_api/queue/join", {"data": ["x" * 60_000]}).status == 413


def part_of(name, size):
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n'
    return head % name + os.urandom(size) + b"\r\n"


def hung_up_half_way(site):
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 90000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", site.port)) as peer:
        peer.sendall(head.encode() + part_of(b"f", 40_000))
        wait_until(lambda: kept(site.uploads) > 0)


def too_large_together(site):
    body = [part_of(b"%d" % i, 90_000) for i in range(3)]
    kind = "multipart/form-data; boundary=b"
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        assert site.ask("POST", "/gradio_api/upload", iter(body), Content_Type=kind).status == 413


def cut_off(site):
    kind = "multipart/form-data; boundary=b"
    answer = site.ask("POST", "/gradio_api/upload", part_of(b"f", 90_000), Content_Type=kind)
    assert answer.text == "[]"


def of_another_field(site):
    body = part_of(b"f", 90_000).replace(b'"files"', b'"other"') + b"--b--"
    kind = "multipart/form-data; boundary=b"
    assert site.ask("POST", "/gradio_api/upload", body, Content_Type=kind).text == "[]"


def of_a_wrong_name(site):
    assert site.upload("..", os.urandom(90_000)).status == 400


@pytest.mark.parametrize(
    "end", [hung_up_half_way, too_large_together, cut_off, of_another_field, of_a_wrong_name]
)
def test_of_an_upload_that_is_not_taken_nothing_is_left(site, end):
    for path in site.uploads.rglob("*"):
        if path.is_file():
            path.unlink()
    end(site)
    wait_until(lambda: kept(site.uploads) == 0)


def wait_until(holds):
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def kept(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "boundary", [b"-" * 60_000, b"b\r\n" + b"--b" * 10_000, b"--b\r\n" * 10_000]
)
def test_a_malformed_upload_is_refused_and_quickly(site, boundary):
    """CVE-2024-8966: a boundary that takes for ever to find."""
    start = time.monotonic()
    kind = "multipart/form-data; boundary=b"
    answer = site.ask("POST", "/gradio_api/upload", b"--b" + boundary, Content_Type=kind)
    assert answer.status == 400 or (answer.status, answer.text) == (200, "[]")
    assert time.monotonic() - start < 5


def test_deep_and_broken_json_is_refused(site):
    for body in ("[" * 20_000, "{", "", '{"data": NaN'):
        answer = site.ask("POST", "/gradio_api/queue/join", body, Content_Type="application/json")
        assert answer.status == 400


ASKED = {
    "GET": "/config /monitoring /assets/index.js /gradio_api/info /gradio_api/heartbeat/x "
    "/gradio_api/upload_progress?upload_id=x /gradio_api/queue/data?session_hash=x",
    "POST": "/gradio_api/queue/join /gradio_api/upload /gradio_api/cancel /gradio_api/call/predict",
}


def test_a_stranger_reaches_nothing_where_one_must_sign_in(service, tmp_path):
    """GHSA-hmx6-r76c-85g9 and gradio-app/gradio#13687: routes that asked for no sign-in."""
    users = tmp_path / "users.txt"
    add_user(users, "ada", "correct horse battery")
    with upload_folder() as uploads:
        mounted = MountedPage("/", service, page.build(service))
        app = application(Settings(bundles=(), users=users), [mounted], uploads, Metrics())
        stranger = TestClient(app, base_url="http://127.0.0.1")
        for cookie in ({}, {"cxr_mm_session": "ada|9999999999|0|0"}, {"access-token": "x"}):
            stranger.cookies.update(cookie)
            for method, paths in ASKED.items():
                for path in paths.split():
                    assert stranger.request(method, path).status_code == 401, path
