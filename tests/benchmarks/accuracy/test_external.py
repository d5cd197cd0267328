"""Part `external`: which NIH images are taken, and rows that say what `evaluate-on` found."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.accuracy import external
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import BundleError, DataNotFoundError, RadiographError
from cxr_mm.core.prediction import Answer, FindingPrediction, OperatingPoint, Prediction
from cxr_mm.core.task import load_task
from cxr_mm.data.clinical import ClinicalTransform

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
POINT = OperatingPoint(threshold=0.5, reason="youden", sensitivity=0.9, specificity=0.8)


class Bright:
    """Calls an image pneumonia the more often the brighter it is; AP images are brighter."""

    def __init__(self, bundle, accept_any_image=False):
        self.bundle, self.accept_any_image = bundle, accept_any_image

    def attempt(self, studies):
        return [self._answer(study) for study in studies]

    answer = attempt

    def _answer(self, study):
        chance = float(study.image.mean())
        if chance > 0.95 and not self.accept_any_image:
            return RadiographError("this does not look like a radiograph", field="image")
        finding = FindingPrediction(
            finding="pneumonia",
            title="Pneumonia",
            probability=chance,
            threshold=0.5,
            positive=chance >= 0.5,
        )
        prediction = Prediction(
            study_id=study.study_id,
            task="pneumonia",
            model="bright",
            digest="0" * 64,
            modalities=("image",),
            findings=(finding,),
        )
        return Answer(study, prediction, {})


@pytest.fixture
def nih(tmp_path):
    """140 patients: pneumonia mostly PA, no finding mostly AP, some with something else."""
    folder = tmp_path / "nih-chest-xray14"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = [HEADER]
    for i in range(140):
        sick = i % 2 == 0
        view = "PA" if rng.random() < (0.7 if sick else 0.3) else "AP"
        label = "Infiltration|Pneumonia" if sick else "No Finding"
        label = "Effusion" if i % 20 == 19 else label
        age = 9 if i % 10 in (4, 5) else 20 + i % 50
        rows.append(f"{i}.png,{label},0,{i},{age},F,{view},2500,2048,0.168,0.168")
        grey = int(rng.integers(150, 256) if view == "AP" else rng.integers(40, 200))
        Image.new("L", (40, 40), grey).save(folder / "images" / f"{i}.png")
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_images_are_those_with_pneumonia_or_without_any_finding(nih):
    images = external.nih_images(nih).set_index("study_id")
    assert len(images) == 133
    assert "19.png" not in images.index
    assert images.loc["0.png", "pneumonia"] == 1
    assert images.loc["1.png", "pneumonia"] == 0
    assert images.loc["4.png", "age"] == 9
    assert images["image_path"].map(lambda path: path.startswith("/")).all()


def test_without_images_or_bundle_it_says_so(tmp_path, monkeypatch):
    with pytest.raises(DataNotFoundError, match="fetch effusion"):
        external.nih_images(tmp_path)
    monkeypatch.setenv("CXR_MM_RUNS", str(tmp_path))
    with pytest.raises(BundleError):
        external.measure()


@pytest.fixture
def measured(nih, monkeypatch):
    monkeypatch.setenv("CXR_MM_RUNS", str(nih))
    task = load_task("pneumonia")
    bundle = SimpleNamespace(
        task=task,
        name="bright",
        digest="0" * 64,
        gate="a gate",
        unchecked="",
        decision="youden",
        operating_points={"image": {"pneumonia": {"youden": POINT}}},
        clinical=ClinicalTransform((), {}, {}, {}),
        trained_on={},
        fingerprints=None,
    )
    own = {"subsets": {"available": {"n": 9, "findings": {"pneumonia": {"auc": {"value": 0.97}}}}}}
    monkeypatch.setattr(external, "load_bundle", lambda folder: bundle)
    monkeypatch.setattr(external, "Predictor", Bright)
    monkeypatch.setattr(external, "data_root", lambda: nih)
    monkeypatch.setattr(external, "shipped_metrics", lambda task: own)
    monkeypatch.setattr(external, "PARAMS", EvaluateParams(bootstrap=100))
    monkeypatch.setattr("cxr_mm.evaluation.external.validate.write_plots", lambda *args: None)
    return external.measure()


def test_rows_before_after_by_view_and_by_the_gate(measured):
    rows = pd.DataFrame([row.model_dump() for row in measured])
    assert set(rows["row"]) == {
        "NIH, adults",
        "NIH, adults, recalibrated in 5 folds",
        "NIH, adults, recalibrated minus as it is",
        "NIH, adults, AP",
        "NIH, adults, PA",
        "NIH, adults, images the gate accepts",
        "NIH, under 18",
    }
    values = rows.set_index(["row", "metric"])
    as_it_is = values.loc["NIH, adults", "auc"]
    assert as_it_is["value"] < 0.5
    assert as_it_is["reference"] == 0.97
    assert as_it_is["n"] == 105
    after = values.loc["NIH, adults, recalibrated in 5 folds"]
    assert after.loc["ece", "value"] < values.loc[("NIH, adults", "ece"), "value"]
    change = values.loc["NIH, adults, recalibrated minus as it is", "brier"]
    assert change["reference"] == 0
    assert change["value"] < 0
    parts = values.xs("auc", level="metric")["n"]
    assert parts["NIH, adults, PA"] + parts["NIH, adults, AP"] == 105
    assert parts["NIH, under 18"] == 28
    refused = values.loc["NIH, adults", "share of images the gate refuses"]["value"]
    assert 0 < refused < 0.5
    accepted = parts["NIH, adults, images the gate accepts"]
    assert accepted == round((1 - refused) * 105)


def test_synthetic_studies_with_rarer_findings_follow_where_there_is_a_bundle(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CXR_MM_RUNS", str(tmp_path))
    assert external._synthetic() == []
    assert "run dvc repro fuse@synthetic" in capsys.readouterr().out
    (tmp_path / "models" / "synthetic" / "bundle").mkdir(parents=True)
    task = load_task("synthetic")
    change = {
        "before": {"value": 0.3, "ci95": [0.2, 0.4]},
        "after": {"value": 0.1, "ci95": [0.0, 0.2]},
        "difference": {"value": -0.2, "ci95": [-0.3, -0.1]},
    }
    figures = dict.fromkeys(external.SYNTHETIC_METRICS, change)
    gain = {"available": dict.fromkeys(task.finding_names, figures)}
    metrics = {"task": "synthetic", "recalibration": {"gain": gain}}
    monkeypatch.setattr(external, "load_bundle", lambda folder: SimpleNamespace(task=task))
    monkeypatch.setattr(external, "synthesise", lambda folder, spec: folder)
    monkeypatch.setattr(
        external,
        "_evaluated",
        lambda predictor, manifest, name: external.Evaluated(name, metrics, pd.DataFrame([1]), 9.0),
    )
    rows = external._synthetic()
    assert {row.task for row in rows} == {"synthetic"}
    values = {(row.row, row.metric): row.value for row in rows}
    assert values["findings half as common: effusion", "ece"] == 0.3
    assert values["findings half as common: effusion, recalibrated in 5 folds", "auc"] == 0.1
    assert values["findings half as common: consolidation, recalibrated minus as it is", "ece"] < 0
    assert sum(row.p is not None and row.p < 0.05 for row in rows) == 4


def test_images_of_the_real_set(data_root):
    images = external.nih_images(data_root)
    adults = images[images["age"] >= external.ADULT]
    assert (len(adults), adults["pneumonia"].sum()) == (940, 477)
