"""Held-out predictions: of studies no one learnt from, and the same that the bundle gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxr_mm.core.config import FuseParams
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import BUNDLE_INDEX, TaskPaths
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE, MODALITIES, subset_name, subsets
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.split import load_split, resamples
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.models.calibration import subset_mask
from cxr_mm.training import calibrate
from cxr_mm.training.fuse import fit_fusion, fuse, heldout
from cxr_mm.training.fusion_fit import Studies

COLUMNS = ("label", "logit", "probability", "threshold", "positive", "certainty")
PATIENTS, FOLDS = 90, 3
QUICK = FuseParams(inner_folds=2, epochs=60)


@pytest.fixture(scope="module")
def recorded_table(pipeline):
    return pd.read_parquet(pipeline.paths.heldout)


@pytest.fixture(scope="module")
def manifest(pipeline):
    return load_manifest(pipeline.paths, pipeline.task)


def test_heldout_has_the_columns_that_others_read(recorded_table, pipeline):
    findings = pipeline.task.finding_names
    wanted = {f"{column}.{finding}" for column in COLUMNS for finding in findings}
    assert set(recorded_table) == wanted | {
        "study_id",
        "patient_id",
        "group",
        "fold",
        "subset",
        "coverage",
    }
    assert set(recorded_table["subset"]) == {AVAILABLE, *map(subset_name, subsets(MODALITIES))}
    assert not recorded_table.duplicated(["study_id", "subset"]).any()
    for finding in findings:
        above = recorded_table[f"probability.{finding}"] >= recorded_table[f"threshold.{finding}"]
        assert (above == recorded_table[f"positive.{finding}"]).all()
        odds = 1 / (1 + np.exp(-recorded_table[f"logit.{finding}"]))
        np.testing.assert_allclose(odds, recorded_table[f"probability.{finding}"], atol=1e-5)
        recorded = recorded_table[f"certainty.{finding}"]
        certain = recorded_table[recorded != "uncertain"]
        assert set(recorded) <= {"present", "absent", "uncertain"}
        assert ((recorded[certain.index] == "present") == certain[f"positive.{finding}"]).all()
    assert set(recorded_table["coverage"]) == {pipeline.params.fuse.coverage}


def test_strict_subsets_hold_only_studies_that_have_all_of_it(recorded_table, manifest, pipeline):
    test = set(resamples(load_split(pipeline.paths))[0].test)
    mask = manifest.mask()
    for subset in subsets(MODALITIES):
        used = [m in subset for m in MODALITIES]
        rows = [r for r in np.flatnonzero(mask[:, used].all(1)) if r in test]
        wanted = manifest.frame["study_id"].iloc[rows]
        found = recorded_table.loc[recorded_table["subset"] == subset_name(subset), "study_id"]
        assert list(found) == list(wanted)
    assert not mask.all()


def test_no_group_is_on_both_sides(recorded_table, pipeline):
    table = load_split(pipeline.paths)
    learnt_from = set(table.loc[table["part"] != "test", "group"])
    assert learnt_from
    assert not learnt_from & set(recorded_table["group"])


def test_labels_are_those_of_the_manifest(recorded_table, manifest):
    truth = manifest.frame.set_index("study_id")
    for finding in manifest.task.finding_names:
        wanted = truth.loc[recorded_table["study_id"], f"finding.{finding}"].to_numpy(np.float32)
        np.testing.assert_array_equal(recorded_table[f"label.{finding}"], wanted)


def test_the_bundle_answers_raw_studies_as_the_stage_did(recorded_table, manifest, pipeline):
    rows = recorded_table[recorded_table["subset"] == AVAILABLE].set_index("study_id").iloc[::3]
    frame = manifest.frame.set_index("study_id").loc[rows.index]
    clinical = manifest.clinical().set_index(manifest.frame["study_id"]).loc[rows.index]
    studies = [
        Study(
            study_id,
            image=read_radiograph(Path(row["image_path"])).pixels if row["image_path"] else None,
            clinical={k: None if pd.isna(v) else v for k, v in clinical.loc[study_id].items()},
            note=row["note"],
        )
        for study_id, row in frame.iterrows()
    ]
    predictor = load_predictor(pipeline.paths.bundle, accept_any_image=True)
    for answer in predictor.answer(studies):
        recorded = rows.loc[answer.prediction.study_id]
        for found in answer.prediction.findings:
            wanted = recorded[f"probability.{found.finding}"]
            assert found.probability == pytest.approx(wanted, abs=1e-3)
            assert found.threshold == pytest.approx(recorded[f"threshold.{found.finding}"])
            assert found.certainty == recorded[f"certainty.{found.finding}"]


def test_run_again_it_makes_the_same_bundle(recorded_table, pipeline, tmp_path):
    here = pipeline.paths
    paths = TaskPaths(here.task, tmp_path)
    for folder in (here.ingest, here.split, here.embeddings, here.image_encoder):
        link = tmp_path / folder.relative_to(here.root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder)
    fuse(pipeline.task, pipeline.params, paths)
    first, again = (read_json(p.bundle / BUNDLE_INDEX)["digest"] for p in (here, paths))
    assert first == again
    pd.testing.assert_frame_equal(pd.read_parquet(paths.heldout), recorded_table)


def made_up(problem="binary", names=("flu",), seed=0):
    """Two studies a patient; the note carries the signal, the clinical feature some, the rest none.

    Every fourth study has no note.
    """
    rng = np.random.default_rng(seed)
    count = 2 * PATIENTS
    classes = rng.integers(0, max(len(names), 2), count)
    labels = (classes[:, None] == np.arange(len(names))).astype(np.float32)
    note = rng.normal(size=(count, 8)).astype(np.float32)
    note[:, : len(names)] += 2.5 * labels
    mask = np.ones((count, 3), bool)
    mask[::4, MODALITIES.index("note")] = False
    note[::4] = 0
    task = Task.model_validate(
        {
            "name": "demo",
            "title": "Demonstration",
            "problem": problem,
            "findings": [{"name": n, "title": n} for n in names],
            "source": {"kind": "synthetic"},
            "split": {"protocol": "folds", "folds": FOLDS},
            "clinical": [
                {"name": "age", "title": "Age", "type": "number", "minimum": 0, "maximum": 120}
            ],
            "note": {},
            "licence": "CC0",
            "citation": "none",
        }
    )
    groups = np.array([f"p{n // 2}" for n in range(count)], dtype=object)
    ids = pd.DataFrame({"study_id": [f"s{n}" for n in range(count)], "patient_id": groups})
    return Studies(
        task=task,
        embeddings={
            "image": torch.from_numpy(rng.normal(size=(count, 12)).astype(np.float32)),
            "note": torch.from_numpy(note),
        },
        clinical=pd.DataFrame({"age": 50 + 4 * labels[:, 0] + rng.normal(0, 8, count)}),
        mask=torch.from_numpy(mask),
        labels=torch.from_numpy(labels),
        groups=groups,
        ids=ids.assign(group=groups),
    )


def folds(studies):
    number = np.array([int(group[1:]) % FOLDS for group in studies.groups])
    return resamples(pd.DataFrame({"part": "", "fold": number}))


def cross_validated(studies, params=QUICK):
    frames = [
        heldout(
            studies,
            fit_fusion(studies, part.train, part.val, params, part.fold),
            part.test,
            params.operating_point,
        ).assign(fold=part.fold)
        for part in folds(studies)
    ]
    return pd.concat(frames, ignore_index=True)


def auc(table, subset, finding):
    rows = table[table["subset"] == subset]
    return roc_auc_score(rows[f"label.{finding}"], rows[f"probability.{finding}"])


@pytest.mark.parametrize(("kind", "loss"), [("late", 0.05), ("gated", 0.1)])
def test_folds_predict_every_study_once_and_find_the_signal(kind, loss):
    studies = made_up()
    table = cross_validated(studies, QUICK.model_copy(update={"fusion": kind}))
    every = table[table["subset"] == AVAILABLE]
    assert sorted(every["study_id"]) == sorted(studies.ids["study_id"])
    assert set(every["fold"]) == set(range(FOLDS))
    singles = {m: auc(table, m, "flu") for m in MODALITIES}
    assert singles["note"] > 0.7
    assert auc(table, "image+tabular+note", "flu") >= max(singles.values()) - loss
    assert abs(singles["image"] - 0.5) < 0.2
    unnoted = table[table["subset"] == "note"]["study_id"]
    assert len(unnoted) == len(studies.ids) * 3 // 4


def test_multiclass_probabilities_share_one_and_the_likeliest_is_positive():
    names = ("none", "flu", "cold")
    table = cross_validated(made_up("multiclass", names))
    probabilities = table[[f"probability.{n}" for n in names]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    positives = table[[f"positive.{n}" for n in names]].to_numpy()
    assert (positives.sum(1) == 1).all()
    assert (positives.argmax(1) == probabilities.argmax(1)).all()
    assert table[[f"threshold.{n}" for n in names]].isna().all(axis=None)
    assert min(auc(table, "note", n) for n in names) > 0.7


def test_missing_labels_of_one_finding_do_not_stop_the_other():
    studies = made_up("multilabel", ("flu", "cold"))
    labels = studies.labels.clone()
    labels[::3, 1] = torch.nan
    table = cross_validated(replace(studies, labels=labels))
    assert auc(table, "note", "flu") > 0.7
    probabilities = table[["probability.flu", "probability.cold"]].to_numpy()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_validation_cannot_calibrate_where_there_is_none():
    studies = made_up()
    everyone = np.arange(len(studies.ids))
    params = QUICK.model_copy(update={"calibrate_on": "validation"})
    with pytest.raises(StageError, match=r"no validation part.*Use cross_fit"):
        fit_fusion(studies, everyone, everyone[:0], params, 0)


def test_what_is_learnt_does_not_depend_on_the_test_rows():
    studies = made_up()
    part = folds(studies)[0]
    other = studies.labels.clone()
    other[part.test] = 1 - other[part.test]
    features = studies.clinical.copy()
    features.iloc[part.test] = 119.0
    changed = replace(studies, labels=other, clinical=features)
    first, again = (fit_fusion(s, part.train, part.val, QUICK, 0) for s in (studies, changed))
    states = first.fusion.state_dict(), again.fusion.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert first.points == again.points


def fitted(studies, **changes):
    part = folds(studies)[0]
    return fit_fusion(studies, part.train, part.val, QUICK.model_copy(update=changes), 0)


def test_isotonic_is_fitted_only_where_there_are_enough_studies(monkeypatch):
    studies = made_up()
    assert not fitted(studies).fusion.calibration.shift.any()
    monkeypatch.setattr(calibrate, "ISOTONIC_FROM", 0)
    monkeypatch.setattr(calibrate, "RARER", 1)
    assert fitted(studies).fusion.calibration.shift.any()
    classes = made_up("multiclass", ("none", "flu", "cold"))
    assert not fitted(classes).fusion.calibration.shift.any()


def test_every_subset_and_finding_has_bounds_that_rule_out_less_the_higher_the_coverage():
    studies = made_up()
    narrow, wide = (fitted(studies, coverage=c).conformal for c in (0.6, 0.95))
    assert list(narrow) == [subset_name(s) for s in subsets(MODALITIES)]
    for subset, bounds in narrow.items():
        assert bounds["flu"].coverage == 0.6
        assert wide[subset]["flu"].present_from < bounds["flu"].present_from
        assert wide[subset]["flu"].absent_to > bounds["flu"].absent_to


def test_unseen_studies_keep_their_true_answer_about_as_often_as_asked():
    table = pd.concat(cross_validated(made_up(seed=s)) for s in range(3))
    rows = table[table["subset"] == "note"]
    wrong = np.where(rows["label.flu"] == 1, "absent", "present")
    for label in (0, 1):
        covered = (rows["certainty.flu"] != wrong)[rows["label.flu"] == label]
        assert covered.mean() > 0.84


def test_a_class_in_the_set_beside_others_is_uncertain():
    names = ("none", "flu", "cold")
    table = cross_validated(made_up("multiclass", names))
    recorded = table[[f"certainty.{n}" for n in names]].to_numpy(str)
    size = (recorded != "absent").sum(1)
    assert size.min() == 1
    assert size.max() > 1
    assert ((recorded == "present").sum(1) == (size == 1)).all()


def test_a_head_that_was_adopted_answers_as_it_did_and_is_not_fitted_again():
    studies, generator = made_up(), torch.manual_seed(0)
    weight, bias = torch.randn(1, 12, generator=generator), torch.tensor([0.3])
    part = folds(studies)[0]
    fitted = fit_fusion(replace(studies, image_head=(weight, bias)), part.train, part.val, QUICK, 0)
    mask = subset_mask(["image"]).expand(len(studies.mask), -1)
    columns = fitted.fusion.columns(studies.inputs(fitted.transform), mask)[:, 0]
    expected = studies.embeddings["image"] @ weight.T + bias
    torch.testing.assert_close(columns, expected, rtol=1e-4, atol=1e-4)


def test_copies_count_for_the_image_alone_and_take_its_shortcut_away():
    """Texture tells the answer in the studies, but is arbitrary in copies stored otherwise."""
    studies = made_up()
    draw = torch.Generator().manual_seed(0)
    clean = torch.randn(studies.embeddings["image"].shape, generator=draw)
    signal = studies.labels[:, 0] * 2 - 1
    clean[:, 0] += signal
    clean[:, 1] = 3 * signal
    copies = clean.repeat(3, 1, 1)
    copies[:, :, 1] = 3 * torch.randn(3, len(clean), generator=draw)
    plain = replace(studies, embeddings={**studies.embeddings, "image": clean})
    otherwise = replace(plain, embeddings={**plain.embeddings, "image": copies[0]})
    part = folds(plain)[0]
    tables = {}
    for name, made in {"plain": plain, "copies": replace(plain, copies=copies)}.items():
        fit = fit_fusion(made, part.train, part.val, QUICK, 0)
        tables[name] = heldout(otherwise, fit, part.test, "youden").set_index("subset")
    auc = {
        name: roc_auc_score(own.loc["image", "label.flu"], own.loc["image", "probability.flu"])
        for name, own in tables.items()
    }
    assert auc["copies"] > auc["plain"] + 0.05
    for modality in ("tabular", "note"):
        logits = [table.loc[modality, "logit.flu"].to_numpy() for table in tables.values()]
        np.testing.assert_allclose(logits[1], logits[0], atol=0.02)


def test_calibration_on_corrupted_copies_knows_how_much_less_they_tell():
    """The image tells the answer in the studies and hardly in the copies."""
    studies = made_up()
    draw = torch.Generator().manual_seed(0)
    clean = torch.randn(studies.embeddings["image"].shape, generator=draw)
    clean[:, 0] += 2 * studies.labels[:, 0] - 1
    copies = clean + 3 * torch.randn(2, *clean.shape, generator=draw)
    studies = replace(studies, embeddings={**studies.embeddings, "image": clean}, copies=copies)
    (part, *_), sharpness = folds(studies), {}
    for images in ("stored", "corrupted"):
        params = QUICK.model_copy(update={"calibrate_images": images})
        table = heldout(
            studies, fit_fusion(studies, part.train, part.val, params, 0), part.test, "youden"
        )
        sharpness[images] = table.loc[table["subset"] == "image", "logit.flu"].abs().mean()
    assert sharpness["corrupted"] < 0.8 * sharpness["stored"]


def test_without_copies_there_is_nothing_corrupted_to_calibrate_on():
    studies = made_up()
    part = folds(studies)[0]
    params = QUICK.model_copy(update={"calibrate_images": "corrupted"})
    with pytest.raises(StageError, match=r"embed\.copies"):
        fit_fusion(studies, part.train, part.val, params, 0)


def test_a_balanced_task_answers_a_half_where_nothing_is_known():
    studies = made_up()
    part = folds(studies)[0]
    params = QUICK.model_copy(update={"calibrate_prevalence": "balanced"})
    fit = fit_fusion(studies, part.train, part.val, params, 0)
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    inputs = {m: values[:1] for m, values in studies.inputs(fit.transform).items()}
    assert fit.fusion(inputs, nothing).tolist() == [[0.0]]
    assert {own["flu"]["youden"].threshold for own in fit.points.values()} == {0.5}
