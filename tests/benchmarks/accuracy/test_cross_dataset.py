"""Part `cross-dataset`: which studies are asked about, by which labels, and which are left out."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.accuracy import cross_dataset
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.files import write_parquet
from cxr_mm.core.fingerprints import Fingerprints
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import load_task

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
COUNT = 60


@pytest.fixture
def project(tmp_path, monkeypatch):
    """60 patients; every second has an opacity and a brighter image, every third is not normal."""
    folder = tmp_path / "nih-chest-xray14"
    (folder / "images").mkdir(parents=True)
    rows, read = [HEADER], ["image,rsna_class"]
    for i in range(COUNT):
        kind = "Lung Opacity" if i % 2 else ("No Lung Opacity / Not Normal" if i % 3 else "Normal")
        rows.append(f"{i}.png,{'Pneumonia' if i % 4 else 'No Finding'},0,{i},50,F,PA,9,9,0.1,0.1")
        read.append(f"{i}.png,{kind}")
        Image.new("L", (40, 40), 60 + 100 * (i % 2) + i).save(folder / "images" / f"{i}.png")
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join(rows) + "\n")
    (folder / "radiologist_labels.csv").write_text("\n".join(read) + "\n")
    monkeypatch.setenv("CXR_MM_RUNS", str(tmp_path))
    monkeypatch.setattr(cross_dataset, "data_root", lambda: tmp_path)
    monkeypatch.setattr(cross_dataset, "PARAMS", EvaluateParams(bootstrap=100))
    return tmp_path


def figures(*cell):
    return {row.metric: row for row in cross_dataset._cell(*cell)}


def test_held_out_answers_are_judged_by_the_labels_of_the_set(project):
    chances = np.linspace(0.1, 0.9, COUNT)
    table = pd.DataFrame({"study_id": [f"{i}.png" for i in range(COUNT)], "subset": "available"})
    table = table.assign(fold=0, **{"probability.opacity": chances, "positive.opacity": True})
    write_parquet(TaskPaths("nih_opacity", project).heldout, table[:40])
    found = figures("nih_opacity", "opacity", cross_dataset.OPACITY, "held out")
    known = [i for i in range(40) if i % 2 or i % 3 == 0]
    assert found["auc"].n == len(known)
    assert found["with finding"].value == 20
    assert (found["sensitivity"].value, found["specificity"].value) == (1, 0)
    assert "rejected" not in found


class Bright:
    """An image is an opacity by its mean; the gate rejects the five brightest."""

    def __init__(self, bundle, accept_any_image):
        assert accept_any_image
        self.bundle = bundle

    def attempt(self, studies):
        return [self._answer(study) for study in studies]

    def _answer(self, study):
        mean = np.float32(study.image.mean())
        found = SimpleNamespace(finding="opacity", probability=float(mean), positive=mean > 0.5)
        prediction = SimpleNamespace(study_id=study.study_id, findings=[found])
        return SimpleNamespace(prediction=prediction, image_embedding=np.array([mean]))


@pytest.fixture
def bundle(project, monkeypatch):
    """Trained on patients 0 to 9."""
    trained = {"study_id": [], "patient_id": [str(i) for i in range(10)], "image": []}
    limit = np.sort(60 + 100 + np.arange(1, COUNT, 2))[-5] / 255 - 1e-4
    gate = SimpleNamespace(check=lambda e: [SimpleNamespace(refused=bool(e[0, 0] > limit))])
    made = SimpleNamespace(
        task=load_task("nih_opacity"), gate=gate, fingerprints=Fingerprints.of("a" * 64, trained)
    )
    monkeypatch.setattr(cross_dataset, "load_bundle", lambda folder: made)
    monkeypatch.setattr(cross_dataset, "Predictor", Bright)
    return made


def test_the_bundle_is_not_asked_about_patients_that_it_was_trained_on(bundle):
    found = figures("nih_opacity", "opacity", cross_dataset.OPACITY_ALL, "bundle")
    assert found["trained on, left out"].value == 10
    assert found["auc"].n == found["patients"].value == COUNT - 10
    assert found["auc"].value == 1
    assert found["rejected"].value == 5 / 50


def test_numbers_of_patients_of_another_source_are_alike_by_chance(bundle):
    elsewhere = load_task("pneumonia")
    bundle.task = elsewhere.model_copy(update={"clinical": ()})
    found = figures("nih_opacity", "opacity", cross_dataset.OPACITY_ALL, "bundle")
    assert found["trained on, left out"].value == 0


def test_a_set_without_the_finding_has_a_specificity_and_no_auc(bundle):
    found = figures("nih_opacity", "opacity", cross_dataset.NIH_BEFORE, "bundle")
    assert not {"auc", "sensitivity"} & found.keys()
    assert found["specificity"].value == pytest.approx(0.5, abs=0.05)


def test_every_model_has_the_finding_that_it_is_asked_for():
    for model, finding in cross_dataset.CELLS:
        assert finding in load_task(model).finding_names


@pytest.mark.parametrize(
    ("labels", "known", "positive"),
    [
        (cross_dataset.CHILDREN, 624, 390),
        (cross_dataset.OPACITY, 142, 84),
        (cross_dataset.OPACITY_ALL, 225, 84),
        (cross_dataset.IN_REPORTS, 1039, 501),
        (cross_dataset.EFFUSION, 636, 98),
        (cross_dataset.NO_EFFUSION, 1095, 98),
        (cross_dataset.COVID_SET, 440, 429),
        (cross_dataset.NIH_BEFORE, 1095, 0),
        (cross_dataset.CHILDREN_BEFORE, 624, 0),
    ],
)
def test_real_counts(data_root, monkeypatch, labels, known, positive):
    monkeypatch.setattr(cross_dataset, "data_root", lambda: data_root)
    studies = cross_dataset._studies(
        cross_dataset._question(load_task("pneumonia"), "pneumonia", labels)
    )
    assert (len(studies), studies["finding.pneumonia"].sum()) == (known, positive)
