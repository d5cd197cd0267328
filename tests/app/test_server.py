"""Server: the real pages of a real bundle, asked over HTTP."""

import json
import re
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.routing import Mount
from starlette.testclient import TestClient

from app.metrics import Metrics
from app.security.auth import add_user
from app.server import (
    application,
    build_pages,
    log_is_writable,
    paths_of,
    services_of,
    upload_folder,
)
from app.service import InstrumentedService
from app.settings import Settings
from app.upload_cache import UploadCache
from cxr_mm.core.errors import BundleError, ClinicalError, ParamsError
from cxr_mm.core.files import write_json
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.prediction_log import open_log

pytestmark = [
    # Gradio sets an option that pandas is about to drop.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
]
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def predictor(bundle_folder):
    return load_predictor(bundle_folder)


@contextmanager
def served(predictor, count=1, log=None, **options):
    """A client on this machine, and the application behind it."""
    settings = Settings(bundles=(), **options)
    metrics = Metrics(settings.root)
    with upload_folder() as uploads:
        pages = build_pages(
            [InstrumentedService(predictor, log, metrics) for _ in range(count)], settings, uploads
        )
        app = application(settings, pages, uploads, metrics)
        address = {"client": ("127.0.0.1", 5000), "base_url": "http://127.0.0.1:7860"}
        with TestClient(app, follow_redirects=False, **address) as client:
            yield client, pages


@pytest.fixture(scope="module")
def site(predictor):
    with served(predictor) as (client, _):
        yield client


@pytest.fixture
def users(tmp_path):
    path = tmp_path / "users.txt"
    add_user(path, "ada", PASSWORD)
    return path


def signed_in(client):
    (token,) = re.findall(r'name="form" value="([^"]+)"', client.get("/sign-in").text)
    form = {"name": "ada", "password": PASSWORD, "form": token}
    assert client.post("/sign-in", data=form).status_code == 303
    return client


def predict(client, place, note="Fever and cough."):
    """Ask a page as a browser does; what comes back last."""
    blocks = place.blocks
    button = next(id_ for id_, block in blocks.blocks.items() if block.elem_id == "predict")
    fn = next(f for f in blocks.fns.values() if f.fn and (button, "click") in f.targets)
    fields = [getattr(block, "value", None) for block in fn.inputs]
    at = next(i for i, b in enumerate(fn.inputs) if "note" in str(b.label).lower())
    fields[at] = note
    api = f"{place.path.rstrip('/')}/gradio_api/queue"
    body = {"data": fields, "fn_index": fn._id, "session_hash": "s1", "trigger_id": None}
    assert client.post(f"{api}/join", json=body).status_code == 200
    lines = client.get(f"{api}/data?session_hash=s1").text.splitlines()
    said = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    return next(each for each in said if each["msg"] == "process_completed")


def test_one_bundle_has_its_page_at_the_root(site):
    answer = site.get("/")
    assert answer.status_code == 200
    assert "gradio_config" in answer.text
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "Server" not in answer.headers


def test_nothing_of_the_page_comes_from_elsewhere(site):
    text = site.get("/").text
    loaded = re.findall(r'(?:<script[^>]*\ssrc|<link[^>]*\shref)="([^"]+)"', text)
    assert loaded
    assert not [each for each in loaded if "//" in each]


def test_what_gradio_is_told_to_leave_out_is_left_out(site):
    config = site.get("/config").json()
    assert config["footer_links"] == []
    for left_out in ("analytics_enabled", "run_history", "show_error", "mcp_server", "pwa"):
        assert not config.get(left_out), left_out
    assert site.get("/gradio_api/runs").status_code == 404


def test_several_bundles_stand_side_by_side_behind_a_list(predictor):
    name = predictor.bundle.task.name
    with served(predictor, count=2) as (client, pages):
        listed = client.get("/")
        assert re.findall(r'href="([^"]+)"', listed.text) == [f"/{name}/", f"/{name}-2/"]
        assert "<script" not in listed.text
        for place in pages:
            assert client.get(place.path).headers["Location"].endswith(f"{place.path}/")
            assert (
                f'"root":"http://127.0.0.1:7860{place.path}"' in client.get(f"{place.path}/").text
            )
            assert predict(client, place)["success"]
        assert client.get("/config").status_code == 404


def test_pages_of_one_task_are_numbered():
    assert paths_of(["icu"]) == ["/"]
    assert paths_of(["icu", "covid", "icu", "icu"]) == ["/icu", "/covid", "/icu-2", "/icu-3"]


def test_a_prediction_is_counted_and_timed(predictor):
    with served(predictor) as (client, (place,)):
        assert predict(client, place)["success"]
        figures = client.get("/metrics")
        assert figures.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        task = place.service.task.name
        assert f'cxr_mm_done_total{{kind="prediction",task="{task}"}} 1.0' in figures.text
        assert f'cxr_mm_seconds_count{{kind="prediction",task="{task}"}} 1.0' in figures.text
        assert 'cxr_mm_queue_length{page="/"} 0.0' in figures.text
        assert "cxr_mm_monitoring_verdict{" not in figures.text


def test_every_answer_of_a_list_is_counted(predictor):
    metrics = Metrics()
    service = InstrumentedService(predictor, None, metrics)
    study = service.study(None, {}, "Fever and cough.")
    service.logged(predictor.answer([study, study, study]))
    assert f'kind="prediction",task="{service.task.name}"}} 3.0' in metrics.text().decode()


def test_what_fails_is_counted_by_its_kind(predictor):
    metrics = Metrics()
    service = InstrumentedService(predictor, None, metrics)
    with pytest.raises(ClinicalError):
        service.study(None, {service.task.clinical[0].name: "nonsense"}, None)
    assert 'error="ClinicalError",kind="study"' in metrics.text().decode()


def test_the_newest_verdict_of_this_very_model_is_shown(predictor, tmp_path):
    bundle = predictor.bundle
    said = {"status": "ok", "task": bundle.task.name, "digest": bundle.digest, "n": 0}
    said |= {"n_labelled": 0, "first": None, "last": None, "headline": "", "reasons": []}
    said |= {"notes": []}
    reports = tmp_path / "reports" / "monitoring" / bundle.task.name
    write_json(reports / "20260101T000000Z" / "verdict.json", said)
    write_json(reports / "20260102T000000Z" / "verdict.json", said | {"status": "alarm"})
    write_json(reports / "20260103T000000Z" / "verdict.json", said | {"digest": "another"})
    with served(predictor, root=tmp_path) as (client, _):
        verdict = f'cxr_mm_monitoring_verdict{{digest="{bundle.digest}",task="{bundle.task.name}"}}'
        assert f"{verdict} 2.0" in client.get("/metrics").text


def test_health_names_the_models_and_whether_the_log_can_be_written(predictor, tmp_path):
    with (
        open_log(f"sqlite:///{tmp_path}/log.db") as log,
        served(predictor, log=log) as (client, _),
    ):
        said = client.get("/healthz")
        assert said.json() == {
            "ok": True,
            "models": [
                {
                    "task": predictor.bundle.task.name,
                    "model": predictor.bundle.name,
                    "digest": predictor.bundle.digest,
                }
            ],
            "log_writable": True,
        }
        (tmp_path / "log.db").unlink()
        said = client.get("/healthz")
        assert (said.status_code, said.json()["ok"]) == (503, False)


def test_no_log_is_no_fault(site):
    assert site.get("/healthz").json()["log_writable"] is None


def test_a_log_that_is_gone_is_not_writable(tmp_path):
    with open_log(f"sqlite:///{tmp_path}/log.db") as log:
        assert log_is_writable(log)
        (tmp_path / "log.db").unlink()
        assert not log_is_writable(log)


def routes_of(routes, before=""):
    """Every method and path of an application, with its mounted ones."""
    for route in routes:
        if isinstance(route, Mount):
            yield from routes_of(route.app.routes, f"{before}{route.path}")
        elif hasattr(route, "original_router"):
            yield from routes_of(route.original_router.routes, before)
        else:
            methods = route.methods or {"GET"}
            yield from ((m, before + re.sub(r"\{[^}]+\}", "x", route.path)) for m in methods)


def test_nothing_but_health_and_the_sign_in_page_answers_a_stranger(predictor, users):
    with served(predictor, users=users, host="0.0.0.0", allowed_hosts=("*",)) as (client, _):
        app = client.app
        asked = sorted(set(routes_of(app.routes)))
        assert len(asked) > 60
        assert ("POST", "/gradio_api/queue/join") in asked
        stranger = TestClient(app, follow_redirects=False, client=("203.0.113.9", 1))
        statuses = {(m, p): stranger.request(m, p).status_code for m, p in asked}
        open_ones = {each for each, status in statuses.items() if status != 401}
        assert open_ones == {("GET", "/healthz"), ("GET", "/sign-in"), ("POST", "/sign-in")}
        for path in ("/", "/config", "/gradio_api/heartbeat/x"):
            sent = stranger.get(path, headers={"Accept": "text/html"})
            assert (sent.status_code, sent.headers["Location"][:9]) == (303, "/sign-in?")


def test_one_who_signed_in_can_predict_and_finds_the_way_out(predictor, users):
    with served(predictor, users=users, host="0.0.0.0", allowed_hosts=("*",)) as (client, (place,)):
        signed_in(client)
        assert predict(client, place)["success"]
        config = client.get("/config")
        assert config.json()["username"] == "ada"
        assert 'href=\\"/sign-out\\"' in config.text


def test_a_browser_may_say_where_its_sign_in_form_came_from(predictor, users):
    with served(predictor, users=users) as (client, _):
        policy = client.get("/sign-in").headers.get_list("Referrer-Policy")
        assert policy == ["same-origin"]  # with "no-referrer" it would post from the origin "null"
        assert client.get("/healthz").headers["Referrer-Policy"] == "no-referrer"


def test_gradio_asks_for_a_sign_in_of_its_own_too(predictor, users):
    with served(predictor, users=users, host="0.0.0.0", allowed_hosts=("*",)) as (_, (place,)):
        inner = TestClient(place.blocks.app)
        assert inner.get("/config").status_code == 401


def test_a_proxy_signs_in_and_anyone_else_is_a_stranger(predictor):
    header = {"X-Remote-User": "ada", "X-Forwarded-Proto": "https", "Host": "cxr.example"}
    options = {"user_header": "X-Remote-User", "allowed_hosts": ("cxr.example",)}
    with served(predictor, **options) as (client, _):
        config = client.get("/config", headers=header).json()
        assert (config["username"], config["root"]) == ("ada", "https://cxr.example")
        assert client.get("/config").status_code == 401
        other = TestClient(client.app, client=("10.0.0.9", 1), base_url="http://127.0.0.1:7860")
        assert other.get("/config", headers=header).status_code == 401


def test_a_server_that_others_reach_answers_to_its_own_names_alone(predictor, users):
    options = {"users": users, "host": "0.0.0.0", "allowed_hosts": ("CXR.example",)}
    with served(predictor, **options) as (client, _):
        for host, status in (("cxr.example", 200), ("localhost", 200), ("rebound.example", 421)):
            assert client.get("/sign-in", headers={"Host": host}).status_code == status


def test_no_page_is_rendered_on_the_server_whatever_the_environment_says(predictor, monkeypatch):
    monkeypatch.setenv("GRADIO_SSR_MODE", "true")
    with served(predictor) as (_, (place,)):
        assert place.blocks.ssr_mode is False


def test_uploads_end_with_the_server(predictor):
    with served(predictor) as (client, _):
        file = {"files": ("image.png", b"no image at all")}
        (path,) = client.post("/gradio_api/upload", files=file).json()
        folder = re.match(r".*/cxr-mm-app-[^/]+", path)[0]
        assert client.get(f"/gradio_api/file={path}").content == b"no image at all"
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"host": "0.0.0.0"}, "--users"),
        ({"host": "0.0.0.0", "user_header": "X-User"}, "--allowed-host"),
        ({"users": "users.txt", "user_header": "X-User"}, "--user-header"),
        ({"trusted_proxies": ("proxy.example",)}, "--trusted-proxy"),
    ],
)
def test_settings_that_will_not_do_are_refused_by_name(options, word):
    with pytest.raises(ParamsError, match=word):
        Settings(bundles=(), **options)


def test_a_bundle_that_is_none_is_refused(tmp_path):
    with pytest.raises(BundleError):
        services_of(Settings(bundles=(tmp_path,)), Metrics(), UploadCache())
