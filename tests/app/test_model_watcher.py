"""The app takes up the model that a pointer names while it serves."""

import shutil
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from starlette.testclient import TestClient

from app.metrics import Metrics
from app.model_watcher import PAUSE, ModelWatcher
from app.server import application, build_pages, services_of, upload_folder
from app.service import InferenceService, InstrumentedService
from app.settings import Settings
from app.upload_cache import UploadCache
from cxr_mm.core.errors import BundleError
from cxr_mm.core.files import write_json
from cxr_mm.core.paths import bundle_digest
from cxr_mm.core.study import Study
from cxr_mm.inference.predictor import Predictor
from cxr_mm.models.bundle import load_bundle, save_bundle
from cxr_mm.models.registry import POINTER_FILE, Pointer

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:'_UnionGenericAlias'"),
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
]


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def serving(bundle_folder, tmp_path):
    """Two versions, the small bundle and one of another digest; the first is pointed to."""
    folder = tmp_path / "serving" / "synthetic"
    shutil.copytree(bundle_folder, folder / "versions/one/bundle")
    newer = load_bundle(bundle_folder)
    newer.trained_on["again"] = 1
    save_bundle(newer, folder / "versions/two/bundle")
    return point(folder, "one")


def point(folder, version, digest=None):
    pointer = Pointer(
        task="synthetic",
        folder=f"versions/{version}",
        digest=digest or bundle_digest(folder / "versions" / version / "bundle"),
        since=datetime.now(UTC),
        by="A. Reader",
    )
    path = folder / POINTER_FILE
    write_json(path, pointer.model_dump(mode="json"))
    return path


def damage(folder, version):
    weights = folder / "versions" / version / "bundle" / "fusion.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def digest_of(serving, version):
    return bundle_digest(serving.parent / "versions" / version / "bundle")


STUDY = Study(study_id="one", note="Fever and cough.")


def test_answers_name_the_new_digest_after_a_switch(serving, clock):
    service = InferenceService(ModelWatcher(serving, clock), None)
    before = service.answer(STUDY)
    second = digest_of(serving, "two")
    point(serving.parent, "two")
    assert service.answer(STUDY).answer.prediction.digest == before.answer.prediction.digest
    clock.now += PAUSE
    after = service.answer(STUDY)
    assert after.answer.prediction.digest == second != before.answer.prediction.digest
    assert after.subject.bundle.digest == second


def test_the_pointer_is_read_at_most_once_a_second(serving, clock, monkeypatch):
    looks = []
    followed = ModelWatcher(serving, clock)
    monkeypatch.setattr("app.model_watcher._bytes", lambda path: looks.append(path))
    for _ in range(5):
        clock.now += PAUSE / 4
        followed.now()
    assert len(looks) == 1


def test_what_was_begun_ends_with_the_model_it_began_with(serving, clock):
    service = InferenceService(ModelWatcher(serving, clock), None)
    shown, pinned = service.answer(STUDY), service.pinned()
    first = shown.answer.prediction.digest
    point(serving.parent, "two")
    clock.now += PAUSE
    assert service.digest == digest_of(serving, "two")
    assert pinned.digest == first
    assert service.at(shown, "high_sensitivity").answer.prediction.digest == first
    assert shown.subject.bundle.digest == first


def test_a_damaged_version_keeps_the_old_one_serving_and_is_told(serving, clock):
    service = InferenceService(ModelWatcher(serving, clock), None)
    first, second = service.digest, digest_of(serving, "two")
    damage(serving.parent, "two")
    point(serving.parent, "two", second)
    clock.now += PAUSE
    assert service.digest == first
    assert "fusion.safetensors was changed" in service.trouble
    point(serving.parent, "one")
    clock.now += PAUSE
    assert (service.digest, service.trouble) == (first, "")


def test_a_version_of_another_digest_than_the_pointer_names_is_not_taken_up(serving, clock):
    followed = ModelWatcher(serving, clock)
    first = followed.now().bundle.digest
    point(serving.parent, "two", "0" * 64)
    clock.now += PAUSE
    assert followed.now().bundle.digest == first
    assert "its digest is not the one" in followed.trouble


def test_a_version_of_another_question_is_not_taken_up(serving, clock):
    followed = ModelWatcher(serving, clock)
    first = followed.now().bundle.digest
    other = load_bundle(serving.parent / "versions/two/bundle")
    other = replace(other, task=other.task.model_copy(update={"views": ("PA",)}))
    save_bundle(other, serving.parent / "versions/three/bundle")
    point(serving.parent, "three")
    clock.now += PAUSE
    assert followed.now().bundle.digest == first
    assert "Start the app anew" in followed.trouble


@pytest.mark.parametrize("said", [None, "{}", "not JSON"])
def test_a_pointer_that_goes_away_or_is_damaged_keeps_the_old_one_serving(serving, clock, said):
    followed = ModelWatcher(serving, clock)
    first = followed.now().bundle.digest
    serving.unlink() if said is None else serving.write_text(said)
    clock.now += PAUSE
    assert followed.now().bundle.digest == first
    assert "pointer" in followed.trouble


def test_a_damaged_version_is_refused_at_the_start(serving):
    damage(serving.parent, "one")
    with pytest.raises(BundleError, match="was changed"):
        services_of(Settings(bundles=(serving,), log=None), Metrics(), UploadCache())


@contextmanager
def served(service, settings, metrics):
    with upload_folder() as uploads:
        pages = build_pages([service], settings, uploads)
        app = application(settings, pages, uploads, metrics)
        address = {"client": ("127.0.0.1", 5000), "base_url": "http://127.0.0.1:7860"}
        with TestClient(app, follow_redirects=False, **address) as client:
            yield client


def test_health_names_the_model_that_serves_and_why_it_is_not_the_one_pointed_to(serving, clock):
    settings, metrics = Settings(bundles=(serving,), log=None), Metrics()
    service = InstrumentedService(ModelWatcher(serving, clock), None, metrics)
    first, second = service.digest, digest_of(serving, "two")
    with served(service, settings, metrics) as client:
        (model,) = client.get("/healthz").json()["models"]
        assert (model["digest"], "trouble" in model) == (first, False)
        point(serving.parent, "two")
        clock.now += PAUSE
        assert client.get("/healthz").json()["models"][0]["digest"] == second
        damage(serving.parent, "one")
        point(serving.parent, "one", first)
        clock.now += PAUSE
        said = client.get("/healthz")
        assert said.status_code == 200
        (model,) = said.json()["models"]
        assert model["digest"] == second
        assert "was changed" in model["trouble"]


def test_rooms_of_a_pointer_follow_it_and_of_a_folder_do_not(serving, bundle_folder):
    settings = Settings(bundles=(serving, bundle_folder), log=None)
    following, fixed = services_of(settings, Metrics(), UploadCache())
    assert isinstance(following._model, ModelWatcher)
    assert isinstance(fixed._model, Predictor)
    assert following.digest == fixed.digest
