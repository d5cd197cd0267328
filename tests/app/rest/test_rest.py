"""REST: the same answers as by every other door, and a problem with field and remedy otherwise."""

import asyncio
import base64
import json
import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import uvicorn
from jsonschema import Draft202012Validator
from PIL import Image

from app import calls
from app.rest.problems import BusyError
from app.rest.routes import WorkQueue
from app.security.auth import add_user
from app.settings import Limits
from cxr_mm.data.studies import build_study
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.prediction_log import open_log
from tests.app.test_server import PASSWORD, served

pytestmark = [
    # Gradio sets an option that pandas is about to drop.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
]
PAGE = Path(__file__).parents[3] / "docs/app_server.md"
NOTE = "Fever and cough."
STUDY = {"clinical": {"age": 63, "sex": "F"}, "note": NOTE, "view": "PA", "study_id": "s1"}
LIMITS = Limits(file_bytes=1 << 20, request_bytes=64 << 10, uploads_per_minute=1000)


class Asking:
    """A client that holds every answer against the document that the server gives."""

    def __init__(self, client):
        self.client, self.document = client, client.get("/v1/openapi.json").json()

    def __call__(self, method, path, **request):
        answer = self.client.request(method, path, **request)
        operation = self.document["paths"][path.removeprefix("/v1").partition("?")[0]]
        ((kind, told),) = operation[method]["responses"][str(answer.status_code)]["content"].items()
        assert answer.headers["Content-Type"] == kind
        self.check(told["schema"], answer.json())
        if "json" in request and answer.status_code == 200:
            body = operation[method]["requestBody"]["content"]["application/json"]
            self.check(body["schema"], request["json"])
        return answer

    def check(self, schema, value):
        whole = {**schema, "components": self.document["components"]}
        Draft202012Validator(whole).validate(value)

    def predict(self, **request):
        return self("post", "/v1/predict", **request)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return open_log(f"sqlite:///{tmp_path_factory.mktemp('log')}/log.db")


@pytest.fixture(scope="module")
def ask(predictor, log):
    with served(predictor, log=log, limits=LIMITS) as (client, _):
        yield Asking(client)


@pytest.fixture(scope="module")
def image(pipeline):
    return next((pipeline.paths.ingest / "source").rglob("*.png")).read_bytes()


def form(image=None, **fields):
    """A form as curl sends it."""
    parts = {k: (None, v if isinstance(v, str) else json.dumps(v)) for k, v in fields.items()}
    return {"files": {**parts, **({"image": ("chest.png", image)} if image else {})}}


def test_a_form_and_json_give_the_json_of_the_command_line(ask, image, predictor, tmp_path):
    (tmp_path / "chest.png").write_bytes(image)
    values = (STUDY["clinical"], NOTE, "PA", "s1")
    study = build_study(
        predictor.bundle.task, partial(read_radiograph, tmp_path / "chest.png"), *values
    )
    expected = json.loads(predictor.predict(study).model_dump_json())
    coded = base64.b64encode(image).decode()
    for request in (form(image, **STUDY), {"json": {**STUDY, "image": coded, "patient_id": "p1"}}):
        answer = ask.predict(**request)
        assert answer.status_code == 200, answer.text
        assert answer.json() == expected


def test_explain_and_feedback_of_what_was_predicted(ask, image, log):
    request = form(image, **STUDY, findings=["effusion"], methods=["grad_cam", "shap_tabular"])
    explained = ask("post", "/v1/explain", **request).json()
    (explanation,) = explained["explanations"]
    parts = explanation["logit"]
    assert parts["base"] + sum(parts["shares"].values()) == pytest.approx(parts["sum"], abs=1e-4)
    seen, features = explanation["attributions"]
    assert seen["image"].startswith("data:image/png;base64,")
    assert "values" not in seen
    assert len(features["values"]) == len(features["names"])
    prediction = ask.predict(**form(**STUDY)).json()
    found = prediction["findings"][0]
    stored = {"prediction": prediction, "verdict": "disagree"}
    labels = {found["finding"]: "absent" if found["positive"] else "present"}
    answer = ask("post", "/v1/feedback", json={**stored, "labels": labels})
    assert answer.json() == {"stored": 1}
    (outcome,) = log.read_outcomes()
    assert (outcome.study_hash, outcome.source) == (log.hash_id("s1"), "feedback")
    for wrong, field in (
        ({**stored, "labels": labels, "verdict": "perhaps"}, "verdict"),
        ({**stored, "labels": {}}, "feedback"),
        ({**stored, "prediction": {**prediction, "task": "other"}}, "prediction"),
        ({"verdict": "agree"}, "prediction"),
    ):
        answer = ask("post", "/v1/feedback", json=wrong)
        assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_the_model_says_what_it_reads(ask, predictor):
    told, task = ask("get", "/v1/model").json(), predictor.bundle.task
    assert (told["name"], told["digest"]) == ("synthetic", predictor.bundle.digest)
    assert [f["name"] for f in told["findings"]] == list(task.finding_names)
    age = next(f for f in told["clinical"] if f["name"] == "age")
    assert (age["unit"], age["minimum"], age["maximum"]) == ("a", 0, 120)
    assert {"grad_cam", "shap_tabular", "shap_note"} <= set(told["methods"])


@pytest.mark.parametrize(
    ("request_", "status", "field", "word"),
    [
        (form(b"no image", study_id="x"), 422, "image", "neither a PNG"),
        (form(note="a", clinical={"age": 300}), 200, None, ""),
        (form(clinical={"age": 300}), 422, "age", "300"),
        (form(note="a", clinical={"agge": 3}), 422, "agge", "no such"),
        (form(note="a", clinical="{"), 422, "clinical", "not JSON"),
        (form(note="a", clinical="[]"), 422, "clinical", "dict"),
        (form(note="a", colour="red"), 422, "colour", "no such field"),
        ({"files": {"note": ("note.txt", b"a"), "view": (None, "PA")}}, 422, "note", "file"),
        ({"json": {"note": "a", "model": "other"}}, 422, "model", "no such model"),
        ({"json": {"note": 1}}, 422, "note", "string"),
        ({"json": {}}, 422, None, "Nothing was given"),
        ({"json": {"image": "?"}}, 422, "image", ""),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422, None, "JSON"),
        ({"content": b"a", "headers": {"Content-Type": "text/csv"}}, 415, None, "multipart"),
        ({"content": b"a", "headers": {"Content-Type": "multipart/form-data"}}, 400, None, ""),
        ({"headers": {"Origin": "http://evil.example"}, "json": {}}, 403, None, "site"),
        ({"headers": {"Host": "evil.example"}, "json": {}}, 421, None, "another name"),
        (form(bytes((1 << 20) + 1)), 413, None, "1 MB"),
        (form(bytes(2 << 20)), 413, None, "Too Large"),
        ({"json": {"image": "A" * (2 << 20)}}, 413, None, "Too Large"),
    ],
)
def test_what_will_not_do_is_a_problem(ask, request_, status, field, word):
    answer = ask.predict(**request_)
    assert answer.status_code == status, answer.text
    if status != 200:
        told = answer.json()
        assert told["status"] == status
        assert word in told["detail"]
        if field:
            assert told["field"] == field
            assert told["remedy"]


def test_a_large_text_that_is_no_image_is_refused_too(ask):
    answer = ask("post", "/v1/feedback", json={"verdict": "agree", "comment": "x" * (65 << 10)})
    assert answer.status_code == 413


def test_a_failure_is_a_problem_that_tells_nothing(ask, monkeypatch):
    monkeypatch.setattr(calls, "predict", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask.predict(json={"note": "a"})
    ask.client._transport.raise_server_exceptions = False
    try:
        answer = ask.predict(json={"note": "a"})
    finally:
        ask.client._transport.raise_server_exceptions = True
    assert answer.status_code == 500
    assert "division" not in answer.text


def test_no_other_path_and_no_page_of_documents_is_open(ask):
    for path in ("/v1", "/v1/docs", "/v1/redoc", "/v1/predict", "/v1/other"):
        answer = ask.client.get(path)
        assert answer.status_code == 404
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert ask.client.post("/v1/predict/../model").status_code == 404


def test_a_full_queue_is_reported_and_its_turn_is_kept():
    """One at a time and one that waits; the third is refused."""

    async def main():
        queue, started, end = WorkQueue(1, most_waiting=1), threading.Event(), threading.Event()

        def work():
            started.set()
            return end.wait(5)

        first = asyncio.create_task(queue.run(work))
        await asyncio.to_thread(started.wait, 5)
        second = asyncio.create_task(queue.run(work))
        await asyncio.sleep(0)
        assert queue.pending == 2
        with pytest.raises(BusyError):
            await queue.run(work)
        end.set()
        assert [await first, await second] == [True, True]
        assert queue.pending == 0

    asyncio.run(main())


def test_limits_sign_in_and_names_of_several_models(predictor, tmp_path, monkeypatch):
    users = tmp_path / "users.txt"
    add_user(users, "gateway", PASSWORD)
    limits = Limits(uploads_per_minute=3)
    with served(predictor, count=2, users=users, limits=limits) as (client, _):
        client.auth = ("gateway", PASSWORD)
        ask = Asking(client)
        assert ask.predict(json={"note": "a"}).json()["remedy"].endswith("synthetic, synthetic-2")
        named = {"note": NOTE, "model": "synthetic-2"}
        assert ask.predict(json=named).json()["findings"]
        assert ask("get", "/v1/model?model=synthetic-2").json()["name"] == "synthetic-2"
        monkeypatch.setattr("app.rest.routes.WorkQueue.run", busy)
        assert ask.predict(json=named).headers["Retry-After"] == "5"
        assert int(ask.predict(json=named).headers["Retry-After"]) >= 1
        assert client.get("/metrics").text.count('cxr_mm_refused_total{reason="rate"} 1.0') == 1
        client.auth = None
        answer = ask("get", "/v1/model")
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")


async def busy(*_):
    raise BusyError


def test_the_commands_of_the_page_of_documents_run(predictor, image, log, tmp_path):
    """With curl, against a server that listens."""
    (tmp_path / "chest.png").write_bytes(image)
    (block,) = re.findall(
        r"<!-- run by tests/app/rest/\S+ -->\n```sh\n(.*?)```", PAGE.read_text(), re.S
    )
    with served(predictor, log=log) as (client, _):
        server = uvicorn.Server(uvicorn.Config(client.app, port=0, log_level="error", ws="none"))
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(server.run)
            while not server.started:
                assert not running.done()
                time.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            script = block.replace(":7860", f":{port}")
            words = ["bash", "-e", "-c", script]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
            server.should_exit = True
    assert done.returncode == 0, done.stderr
    prediction = json.loads((tmp_path / "prediction.json").read_text())
    assert prediction["modalities"] == ["image", "tabular", "note"]
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert '{"stored":2}' in done.stdout
    Image.open(tmp_path / "map.png").load()
