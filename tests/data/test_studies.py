"""Building studies: the same input gives an equal study through every door."""

from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from app.archive import Item
from app.calls import _study as study_of_api
from app.service import InferenceService
from app.worklist import _Case, _ready
from cxr_mm.cli.options import study_of
from cxr_mm.core.errors import ClinicalError, NoteError, RadiographError
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.studies import GENERATED_ID, build_study, iter_studies
from cxr_mm.explain.cases import Studies
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.inference.predictor import Predictor, load_predictor

UNUSABLE = {"temperature": "-inf", "crp": "1,045"}
CLINICAL = {"age": " 63 ", "sex": " male ", "crp": "unknown"}
NOTE = "  Fever, no cough. \n"


@pytest.fixture
def service(bundle_folder):
    return InferenceService(load_predictor(bundle_folder), None)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    grey = np.random.default_rng(0).integers(0, 255, (60, 60)).astype(np.uint8)
    Image.fromarray(grey).save(path)
    return path


def through_every_door(service, image, folder):
    """Build one study with blanks around its values by every way in."""
    task = service.task
    given = [f"{name}={value}" for name, value in CLINICAL.items()]
    cells = {"image_path": str(image), "note": NOTE, "view": " PA ", **CLINICAL}
    row = dict.fromkeys(task.clinical_names) | cells | {"study_id": " s 1 "}
    pd.DataFrame([row]).to_csv(folder / "manifest.csv", index=False)
    item = Item(image.name, image)
    return {
        "command": study_of(task, image, given, NOTE, " PA ", " s 1 "),
        "page": service.study(str(image), CLINICAL, NOTE, " PA ", " s 1 "),
        "api": study_of_api(service, str(image), CLINICAL, NOTE, " PA ", " s 1 "),
        "worklist": _ready(service, _Case(" s 1 ", item, cells)).study,
        "table": next(iter_studies(task, folder / "manifest.csv")),
    }


def plain(study):
    """A study as values that compare; of the image whether there is one, since the worklist has
    fitted it into its square already."""
    fitted = ("fitted", "shape")
    values = {name: value for name, value in asdict(study).items() if name not in fitted}
    return {**values, "image": study.image is not None, "quality": dict(study.quality)}


def test_the_same_input_gives_an_equal_study_through_every_door(service, image, tmp_path):
    studies = through_every_door(service, image, tmp_path)
    expected = plain(studies["command"])
    assert {name: plain(study) for name, study in studies.items()} == dict.fromkeys(
        studies, expected
    )
    for name in ("page", "api", "table"):
        np.testing.assert_array_equal(studies[name].image, studies["command"].image)
    study = studies["command"]
    assert (study.study_id, study.view, study.note) == ("s 1", "PA", "Fever, no cough.")
    assert study.clinical["age"] == 63.0
    assert study.clinical["sex"] == "male"
    assert study.clinical["crp"] is None


def test_one_rule_for_a_cell_that_cannot_be_used_at_every_door(
    service, image, tmp_path, monkeypatch
):
    """Ingest clears and counts the same cells (tests/data/test_labels.py)."""
    monkeypatch.setitem(globals(), "CLINICAL", CLINICAL | UNUSABLE | {"smoker": "sometimes"})
    predictor = Predictor(service.bundle, accept_any_image=True)
    for study in through_every_door(service, image, tmp_path).values():
        prediction = predictor.predict(study)
        warned = "\n".join(prediction.warnings)
        assert "smoker: 'sometimes' is none of its categories, so it counts as unknown" in warned
        assert "temperature: '-inf' is no number, so it counts as unknown. Give a num" in warned
        assert "crp: '1,045' is no number (a decimal comma, or thousands?)" in warned
        without = build_study(
            service.task, partial(read_radiograph, image), {"age": 63, "sex": "male"}, NOTE, "PA"
        )
        assert [f.probability for f in prediction.findings] == pytest.approx(
            [f.probability for f in predictor.predict(without).findings], abs=1e-4
        )


def test_a_held_out_study_is_the_one_that_its_row_gives(pipeline, tmp_path):
    manifest = load_manifest(pipeline.paths, pipeline.task)
    frame = manifest.frame[manifest.mask().all(axis=1)].head(1)
    columns = ["study_id", "patient_id", "image_path", "note", "view"]
    table = frame[columns].astype(object).join(manifest.clinical())
    table.to_csv(tmp_path / "manifest.csv", index=False)
    row = next(iter_studies(pipeline.task, tmp_path / "manifest.csv"))
    studies = Studies(manifest, pipeline.paths.pixels)
    case = studies.study(frame["study_id"].iloc[0], with_image=True)
    assert plain(case) == plain(row)
    np.testing.assert_array_equal(case.image, row.image)


def test_a_clinical_view_fills_a_missing_one(service):
    feature = service.task.clinical[1].model_copy(
        update={"name": "view", "categories": ("PA", "AP"), "aliases": {}}
    )
    task = service.task.model_copy(update={"clinical": (feature,)})
    assert build_study(task, clinical={"view": "ap"}).view == "AP"
    assert build_study(task, clinical={"view": "ap"}, view="PA").view == "PA"
    assert build_study(task, view="ap").view == "AP"
    assert build_study(task, view="oblique").view == "oblique"
    assert build_study(task, view=" ").view is None


def test_a_missing_id_is_generated_and_never_the_same(service):
    first, second = (build_study(service.task, study_id=" ") for _ in range(2))
    assert first.study_id.startswith(GENERATED_ID)
    assert first.study_id != second.study_id
    assert build_study(service.task, patient_id=" ").patient_id is None


def test_an_input_that_the_task_does_not_use_is_left_out_with_a_warning(service):
    task = service.task.model_copy(update={"note": None})
    study = build_study(task, note="Fever.", clinical={"age": 63})
    assert study.note is None
    assert study.warnings == ("note: given, but this model does not use it",)


def test_the_input_at_fault_is_named(service, tmp_path):
    with pytest.raises(ClinicalError):
        study_of(service.task, None, ["height=999"], None, None, None)
    with pytest.raises(NoteError):
        service.study(None, {}, "x" * 30_000)
    with pytest.raises(RadiographError):
        study_of(service.task, tmp_path / "nowhere.png", None, None, None, None)
