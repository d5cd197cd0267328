"""One encoding: an answered study is read by each transform and encoder once, explained or not."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from app.service import InferenceService
from cxr_mm.data import clinical
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.methods import METHODS, Ask
from cxr_mm.explain.study import Question, explain_study
from cxr_mm.explain.subject import modality_shares
from cxr_mm.explain.what_if import what_if
from cxr_mm.imaging import burnt_in_text
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.models import bundle as bundles
from cxr_mm.models import image_encoder, note_encoder
from cxr_mm.prediction_log.log import open_log

CLINICAL = {"age": "63", "sex": "F", "crp": "120.5"}


@pytest.fixture
def service(bundle_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_MM_LOG_SECRET", "a secret of more than a few characters")
    log = open_log(f"sqlite:///{tmp_path}/log.db")
    predictor = load_predictor(bundle_folder, accept_any_image=True, keep_maps=True)
    return InferenceService(predictor, log)


@pytest.fixture
def counts(service, monkeypatch):
    """Count what each step is asked."""
    counted: Counter[str] = Counter()

    def count(owner, name, label):
        real = getattr(owner, name)

        def called(*args, **options):
            counted[label] += 1
            return real(*args, **options)

        monkeypatch.setattr(owner, name, called)

    count(bundles.Bundle, "encode", "encode")
    count(burnt_in_text, "fit_square", "fit_square")
    count(note_encoder.NoteEncoder, "embed", "note encoder")
    count(clinical, "_check", "clinical value")
    count(image_encoder.FeatureTracer, "__call__", "image encoder")
    hook = service.bundle.image_encoder.register_forward_pre_hook(
        lambda *_: counted.update(["image encoder"])
    )
    yield counted
    hook.remove()


@pytest.fixture
def study(service, tmp_path):
    path = tmp_path / "image.png"
    grey = np.random.default_rng(0).integers(0, 255, (90, 70)).astype(np.uint8)
    Image.fromarray(grey).save(path)
    return lambda: service.study(str(path), CLINICAL, "Fever and cough.", "PA", "s 1")


def once(service):
    features = len(service.task.clinical)
    steps = ("encode", "fit_square", "note encoder", "image encoder")
    return {**dict.fromkeys(steps, 1), "clinical value": features}


def test_an_answered_and_logged_study_is_encoded_once(service, counts, study):
    session = service.answer(study())
    assert session.log_trouble == ""
    assert counts == once(service)


def test_explaining_what_was_answered_asks_no_encoder_again(service, counts, study):
    session = service.answer(study())
    target = Target(service.task.finding_names[0])
    modality_shares(session.subject)
    for method in ("shap_tabular", "grad_cam", "layer_cam"):
        METHODS[method].explain(session.subject, target, Ask())
    what_if(session.subject, target, "age")
    assert counts == once(service)


def test_the_command_explains_what_it_predicted(service, counts, study, tmp_path):
    question = Question(methods=("shap_tabular",))
    explain_study(service.predictor, study(), question).write(tmp_path / "explanation")
    assert counts == once(service)
