from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import InputError, ManifestError, RadiographError
from cxr_mm.core.files import read_json
from cxr_mm.core.fingerprints import Fingerprints
from cxr_mm.core.prediction import FindingPrediction, OperatingPoint, Prediction
from cxr_mm.core.types import subset_name, subsets
from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.evaluation.external.validate import WRITTEN, evaluate_on, read_labels
from cxr_mm.inference.predictor import EncodedAnswer

QUICK = EvaluateParams(bootstrap=100)


class OldAndCoughing:
    """Answers as a Predictor does: from the age and from whether the note tells of a cough."""

    accept_any_image = False

    def __init__(self, task):
        cuts = {"youden": 0.5, "high_sensitivity": 0.2, "high_specificity": 0.8}
        points = {
            reason: OperatingPoint(threshold=cut, reason=reason, sensitivity=0.75, specificity=0.7)
            for reason, cut in cuts.items()
        }
        self.bundle = SimpleNamespace(
            task=task,
            name="old-and-coughing",
            digest="0" * 64,
            decision="youden",
            operating_points={
                subset_name(s): dict.fromkeys(task.finding_names, points)
                for s in subsets(task.modalities)
            },
            clinical=ClinicalTransform(
                task.clinical, {"age": 6.5}, {"age": 4.0}, {"age": [1.0, 18.0]}
            ),
            trained_on={"studies": 900, "groups": 800},
            fingerprints=None,
            unchecked="",
        )
        self.seen = []

    def attempt(self, studies):
        return [self._answer(study) for study in studies]  # there is no image that it rejects

    def attempt_encoded(self, studies, encoded, show):
        return [self._answer(shown(study, show)) for study in studies]

    def _answer(self, study):
        self.seen.append((study.study_id, study.modalities))
        age = study.clinical.get("age")
        logit = ((float(age) - 50) / 15 if age is not None else 0.0) + 1.2 * (
            ("cough" in study.note) - 0.5 if study.note else 0.0
        )
        chance = float(1 / (1 + np.exp(-logit)))
        findings = tuple(
            FindingPrediction(
                finding=f.name,
                title=f.title,
                probability=chance,
                threshold=0.5,
                positive=chance >= 0.5,
            )
            for f in self.bundle.task.findings
        )
        prediction = Prediction(
            study_id=study.study_id,
            task=self.bundle.task.name,
            model=self.bundle.name,
            digest=self.bundle.digest,
            modalities=study.modalities,
            findings=findings,
        )
        return EncodedAnswer(
            study=study,
            prediction=prediction,
            clinical=dict(study.clinical),
            encoded=None,
            modality_shares=None,
        )


def shown(study, modalities):
    """The study with nothing but these modalities."""
    return replace(
        study,
        clinical=study.clinical if "tabular" in modalities else {},
        note=study.note if "note" in modalities else None,
    )


def centre(path, n=120, **columns):
    """A manifest CSV of an external site: every third study without a note, every fifth no age."""
    rng = np.random.default_rng(0)
    age = rng.integers(20, 80, size=n)
    cough = rng.random(n) < 0.5
    logit = (age - 50) / 15 + 1.2 * (cough - 0.5)
    frame = pd.DataFrame(
        {
            "study_id": [f"x{i:03d}" for i in range(n)],
            "patient_id": [f"p{i // 2}" for i in range(n)],
            "age": np.where(np.arange(n) % 5 == 0, "", age.astype(str)),
            "note": np.where(np.arange(n) % 3 == 0, "", np.where(cough, "has a cough", "well")),
            "effusion": (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int).astype(str),
        }
    ).assign(**columns)
    frame.to_csv(path, index=False)
    return frame


@pytest.fixture
def task(task_of):
    return task_of()


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the plots, the slow part, where they are not looked at."""
    monkeypatch.setattr("cxr_mm.evaluation.external.validate.write_plots", lambda *args: None)


def test_every_subset_is_shown_exactly_its_modalities(task, undrawn, tmp_path):
    frame = centre(tmp_path / "centre.csv")
    predictor = OldAndCoughing(task)
    out = evaluate_on(predictor, tmp_path / "centre.csv", tmp_path / "out", QUICK)
    table = pd.read_parquet(out / "predictions.parquet")
    noted, aged = frame["note"] != "", frame["age"] != ""
    expected = {
        "available": (noted | aged).sum(),
        "tabular": aged.sum(),
        "note": noted.sum(),
        "tabular+note": (noted & aged).sum(),
    }
    assert table["subset"].value_counts().to_dict() == expected
    assert ("x001", ("tabular",)) in predictor.seen
    assert ("x001", ("note",)) in predictor.seen
    assert ("x001", ("tabular", "note")) in predictor.seen
    both = table[table["study_id"] == "x001"].set_index("subset")["probability.effusion"]
    assert both["available"] == both["tabular+note"]
    assert both["tabular"] != both["note"]


def test_report_replaces_an_earlier_one_and_has_calibration_and_bad_rows(task, tmp_path):
    centre(tmp_path / "centre.csv")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("{}")
    out = evaluate_on(OldAndCoughing(task), tmp_path / "centre.csv", tmp_path / "out", QUICK)
    metrics = read_json(out / "metrics.json")
    assert (metrics["model"], metrics["protocol"]) == ("old-and-coughing", "external")
    assert next(iter(metrics)) == "transportability"
    # x000, x015, … have neither age nor note.
    assert metrics["bad_rows"] == 8
    bad = read_json(out / "bad_rows.json")
    assert {row["study_id"] for row in bad} == {f"x{i:03d}" for i in range(0, 120, 15)}
    assert all(row["reason"] for row in bad)
    figures = metrics["subsets"]["available"]["findings"]["effusion"]
    assert metrics["subsets"]["available"]["patients"] == 60
    assert figures["auc"]["ci95"][0] > 0.55
    low, high = figures["calibration_slope"]["ci95"]
    assert low < 1 < high
    low, high = figures["calibration_in_the_large"]["ci95"]
    assert low < 0 < high
    assert (out / "plots" / "roc_subsets.png").stat().st_size > 1000
    assert {p.name for p in out.iterdir()} == WRITTEN


def test_a_model_too_high_everywhere_shows_in_the_large(task, undrawn, tmp_path):
    centre(tmp_path / "centre.csv", effusion=(["1"] + ["0"] * 3) * 30)
    out = evaluate_on(OldAndCoughing(task), tmp_path / "centre.csv", tmp_path / "out", QUICK)
    figures = read_json(out / "metrics.json")["subsets"]["available"]["findings"]["effusion"]
    assert figures["calibration_in_the_large"]["ci95"][0] > 0
    assert figures["calibration_intercept"]["ci95"][1] < 0


def test_a_finding_without_any_label_is_null_with_a_reason(task_of, undrawn, tmp_path):
    task = task_of("multilabel")
    centre(tmp_path / "centre.csv", consolidation="")
    out = evaluate_on(OldAndCoughing(task), tmp_path / "centre.csv", tmp_path / "out", QUICK)
    metrics = read_json(out / "metrics.json")
    assert set(metrics["recalibration"]["left"]["note"]) == {"consolidation"}
    message = metrics["subsets"]["available"]
    assert message["findings"]["consolidation"]["auc"]["value"] is None
    assert message["findings"]["consolidation"]["auc"]["reason"] == "no study has a label"
    assert message["findings"]["effusion"]["auc"]["value"] > 0.6
    assert message["macro"]["over"] == ["effusion"]


def test_studies_of_other_views_and_without_label_are_set_aside(task, tmp_path):
    labels = ["", *["1", "0"] * 59, "1"]
    views = ["PA"] * 60 + ["LATERAL"] * 30 + [""] * 30
    centre(tmp_path / "centre.csv", effusion=labels, view=views)
    frontal = task.model_copy(update={"views": ("PA", "AP")})
    table, bad = read_labels(frontal, tmp_path / "centre.csv")
    # Neither age nor note: x015, x030, x045, x105 (x000 has no label; x060 to x089 are lateral).
    reasons = pd.Series([row["reason"] for row in bad]).value_counts()
    assert reasons["no label"] == 1
    assert reasons["view LATERAL"] == 28
    assert len(table) == 120 - len(bad)


def test_studies_without_patient_count_as_patients_of_their_own(task, tmp_path):
    centre(tmp_path / "centre.csv", patient_id="")
    table, _ = read_labels(task, tmp_path / "centre.csv")
    assert table["group"].tolist() == table.index.tolist()


def test_group_key_of_the_training_source_is_not_asked_for(task, tmp_path):
    centre(tmp_path / "centre.csv")
    table, _ = read_labels(
        task.model_copy(update={"group_key": "offset_group"}), tmp_path / "centre.csv"
    )
    assert table["group"].nunique() == 60


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("study_id,age,note,effusion\n", "no row below the header"),
        ("study_id,age,note\nx1,50,well\n", "effusion: the column is missing"),
        ("study_id,age,note,effusion\nx1,50,well,\n", "no row has a label"),
    ],
)
def test_a_manifest_that_cannot_be_evaluated_is_refused(task, tmp_path, text, words):
    (tmp_path / "centre.csv").write_text(text)
    with pytest.raises(ManifestError, match=words):
        evaluate_on(OldAndCoughing(task), tmp_path / "centre.csv", tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_not_replaced(task, tmp_path):
    centre(tmp_path / "centre.csv")
    with pytest.raises(InputError, match="no earlier evaluation"):
        evaluate_on(OldAndCoughing(task), tmp_path / "centre.csv", tmp_path, QUICK)
    assert (tmp_path / "centre.csv").exists()


class Wary(OldAndCoughing):
    """Refuses the image of every tenth study."""

    def attempt(self, studies):
        refusal = RadiographError("no image", field="image")
        return [refusal if s.study_id[-1] == "1" else self._answer(s) for s in studies]


def test_studies_whose_image_is_refused_are_bad_rows(task, undrawn, tmp_path):
    centre(tmp_path / "centre.csv")
    out = evaluate_on(Wary(task), tmp_path / "centre.csv", tmp_path / "out", QUICK)
    bad = pd.DataFrame(read_json(out / "bad_rows.json")).set_index("study_id")["reason"]
    refused = {f"x{i:03d}" for i in range(1, 120, 10)}
    assert set(bad.index[bad == "image: no image."]) == refused
    assert not refused & set(pd.read_parquet(out / "predictions.parquet")["study_id"])


def test_the_summary_begins_with_what_to_look_at_first(task, undrawn, tmp_path):
    frame = centre(tmp_path / "centre.csv")
    used = frame[(frame["note"] != "") | (frame["age"] != "")]
    out = evaluate_on(OldAndCoughing(task), tmp_path / "centre.csv", tmp_path / "out", QUICK)
    lines = (out / "summary.txt").read_text().splitlines()
    assert lines[0].startswith("old-and-coughing, on centre.csv: 112 studies of 60 patients, 8 bad")
    assert lines[2] == f"effusion: {used['effusion'].eq('1').sum()} of 112"
    assert [line.split("  ")[1] for line in lines[3:7]] == [
        "calibration in the large",
        "calibration intercept",
        "calibration slope",
        "AUC",
    ]
    assert max(map(len, lines)) <= 110


def test_recalibration_is_offered_and_measured(task, undrawn, tmp_path):
    centre(tmp_path / "centre.csv", n=240, effusion=(["1"] + ["0"] * 3) * 60)
    out = evaluate_on(OldAndCoughing(task), tmp_path / "centre.csv", tmp_path / "out", QUICK)
    message = read_json(out / "metrics.json")["recalibration"]
    assert message["updates"]["tabular"]["effusion"]["method"] != "none"
    gains = message["gain"]["available"]["effusion"]["calibration_in_the_large"]
    assert gains["before"]["ci95"][0] > 0
    assert abs(gains["after"]["value"]) < 0.05
    assert gains["difference"]["ci95"][1] < 0
    assert "bundle" not in message
    assert "write that bundle with --recalibrate FOLDER" in (out / "summary.txt").read_text()


def test_too_few_patients_are_refused_before_any_image_is_read(task, undrawn, tmp_path):
    centre(tmp_path / "centre.csv", effusion=["1"] * 14 + ["0"] * 106)
    predictor = OldAndCoughing(task)
    arguments = [predictor, tmp_path / "centre.csv", tmp_path / "out", QUICK]
    with pytest.raises(ManifestError, match=r"7 patients .* too few .*, 20 are needed.*Label 13"):
        evaluate_on(*arguments, tmp_path / "new")
    assert predictor.seen == []
    assert {p.name for p in tmp_path.iterdir()} == {"centre.csv"}
    out = evaluate_on(*arguments)
    assert read_json(out / "metrics.json")["recalibration"]["gain"] is None
    assert "too few patients" in (out / "summary.txt").read_text()


def test_one_class_alone_is_measured_as_far_as_it_goes(task, undrawn, tmp_path):
    centre(tmp_path / "centre.csv", effusion="0")
    out = evaluate_on(OldAndCoughing(task), tmp_path / "centre.csv", tmp_path / "out", QUICK)
    look = read_json(out / "metrics.json")["transportability"]["findings"]["effusion"]
    assert look["auc"]["reason"] == "no study has the finding"
    assert look["operating_points"]["youden"]["sensitivity"]["value"] is None
    assert look["operating_points"]["youden"]["specificity"]["value"] > 0


def test_studies_that_were_trained_on_are_counted_and_left_out(task, undrawn, tmp_path):
    frame = centre(tmp_path / "centre.csv")
    predictor = OldAndCoughing(task)
    seen = {"study_id": ["X001", "elsewhere"], "patient_id": ["p5"], "image": []}
    predictor.bundle.fingerprints = Fingerprints.of("key", seen)
    out = evaluate_on(predictor, tmp_path / "centre.csv", tmp_path / "out", QUICK)
    found = read_json(out / "metrics.json")["trained_studies"]
    assert found["by"] == {"study_id": 1, "patient_id": 2, "image": 0}
    assert found["text"] == (
        "3 of 112 studies were trained on (by study_id 1, patient_id 2, image 0) and are left out: "
        "all figures are of unseen studies."
    )
    assert found["text"] in " ".join((out / "summary.txt").read_text().split())
    unusable = {row["study_id"] for row in read_json(out / "bad_rows.json")}
    used = set(pd.read_parquet(out / "predictions.parquet")["study_id"])
    assert used == set(frame["study_id"]) - {"x001", "x010", "x011", *unusable}


def test_studies_that_were_trained_on_are_kept_where_asked_for(task, undrawn, tmp_path):
    frame = centre(tmp_path / "centre.csv")
    predictor = OldAndCoughing(task)
    everything = {"study_id": list(frame["study_id"]), "patient_id": [], "image": []}
    predictor.bundle.fingerprints = Fingerprints.of("key", everything)
    given = (predictor, tmp_path / "centre.csv", tmp_path / "out", QUICK)
    with pytest.raises(ManifestError, match="trained on all of 112 studies"):
        evaluate_on(*given)
    found = read_json(evaluate_on(*given, include_trained=True) / "metrics.json")
    assert found["n_studies"] == 112
    assert "not of unseen studies alone" in found["trained_studies"]["text"]
