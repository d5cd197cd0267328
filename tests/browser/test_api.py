"""API over HTTP, by Gradio's own client, as docs/app_server.md says."""

import json
import re
import sqlite3
import time
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from typer.testing import CliRunner

from cxr_mm.cli import app
from tests.browser.conftest import serving

STUDY = {"clinical": {"age": 63}, "note": "Fever and cough.", "view": "", "study_id": "s1"}


@pytest.fixture(scope="module")
def client(site):
    return Client(site.url, verbose=False, ssl_verify=False)


def test_predict_gives_the_json_of_the_command_line(client, site, pipeline):
    image = site.images[0]
    result = client.predict(image=handle_file(str(image)), **STUDY, api_name="/predict")
    words = ["predict", "--bundle", str(pipeline.paths.bundle), "--image", str(image), "--json"]
    words += ["--clinical", "age=63", "--note", STUDY["note"], "--study-id", "s1"]
    message = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    for ours, theirs in zip(result.pop("findings"), message.pop("findings"), strict=True):
        assert ours.pop("probability") == pytest.approx(theirs.pop("probability"), abs=1e-6)
        assert ours == theirs
    assert result == message


def test_explain_gives_shares_that_add_up_and_pictures(client, site):
    result = client.predict(
        image=handle_file(str(site.images[0])),
        **STUDY,
        findings=["effusion"],
        methods=["grad_cam", "shap_tabular"],
        api_name="/explain",
    )
    (explanation,) = result["explanations"]
    parts = explanation["logit"]
    assert parts["base"] + sum(parts["shares"].values()) == pytest.approx(parts["sum"], abs=1e-4)
    pictures = [a["image"] for a in explanation["attributions"] if "image" in a]
    assert pictures
    assert all(picture.startswith("data:image/png;base64,") for picture in pictures)


def test_a_path_as_plain_text_is_refused_with_what_to_write(client):
    with pytest.raises(AppError, match=r'Write image=handle_file\("image.png"\)'):
        client.predict(image="image.png", **STUDY, api_name="/predict")


def test_a_patient_id_is_logged_as_a_keyed_hash(client, site):
    client.predict(image=None, **STUDY, patient_id="4711", api_name="/predict")
    with sqlite3.connect(site.database) as database:
        query = "select patient_hash from predictions order by position desc limit 1"
        (hashed,) = database.execute(query).fetchone()
    assert len(hashed) == 64


def test_labels_of_feedback_may_be_numbers(client):
    result = client.predict(image=None, **STUDY, api_name="/predict")
    found = result["findings"][0]
    labels = {found["finding"]: int(not found["positive"])}
    call = {"prediction": result, "verdict": "disagree", "labels": labels, "comment": ""}
    assert client.predict(**call, api_name="/feedback") == {"stored": 1}


def test_feedback_is_kept(client, site):
    result = client.predict(image=None, **STUDY, api_name="/predict")
    stored = client.predict(
        prediction=result, verdict="agree", labels={}, comment="", api_name="/feedback"
    )
    assert stored == {"stored": len(result["findings"])}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clinical": {"age": 999}, "note": ""}, "age: 999 is out of range"),
        ({"clinical": {"shoe": 44}}, "shoe: no such clinical feature"),
        ({"clinical": [1]}, "clinical: not a mapping"),
        ({"clinical": {}, "note": ""}, "Nothing was given yet"),
    ],
)
def test_what_is_wrong_reaches_the_caller(client, change, words):
    with pytest.raises(AppError, match=words):
        client.predict(image=None, **{**STUDY, **change}, api_name="/predict")


def test_a_text_file_is_no_image(client):
    with pytest.raises(AppError, match="neither a PNG, a JPEG nor a DICOM") as caught:
        client.predict(image=handle_file("/etc/passwd"), **STUDY, api_name="/predict")
    assert "root:" not in str(caught.value)


def test_nothing_but_the_three_calls_is_offered(client):
    names = client.view_api(return_format="dict")["named_endpoints"]
    assert set(names) == {"/predict", "/explain", "/feedback"}


def test_the_loop_of_the_page_waits_as_a_rate_limit_asks(pipeline, site, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/app_server.md").read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def call" in b)
    words = ("--bundle", str(pipeline.paths.bundle), "--log", f"sqlite:///{tmp_path}/log.db")
    waited, sleep = [], time.sleep

    def sleeping(seconds):
        waited.append(seconds)
        sleep(seconds)

    with serving(tmp_path, *words, "--requests-per-minute", "20") as url:
        while (answer := httpx.post(f"{url}/gradio_api/queue/join")).status_code != 429:
            assert answer.status_code < 500
        assert int(answer.headers["Retry-After"]) in (1, 2, 3)
        block = block.replace("http://127.0.0.1:7860", url).replace(
            "image.png", str(site.images[0])
        )
        with monkeypatch.context() as patched:
            patched.setattr(time, "sleep", sleeping)
            exec(block, found := {})
    assert max(waited) >= 1
    assert found["prediction"]["study_id"] == "study-1"
    assert found["explanation"]["explanations"]


def test_the_page_shows_every_call():
    text = (Path(__file__).parents[2] / "docs/app_server.md").read_text(encoding="utf-8")
    for name in ("/predict", "/explain", "/feedback"):
        assert f'api_name="{name}"' in text
