"""The stage reference, from the files that earlier stages leave."""

import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from cxr_mm.core.config import load_params
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import write_json, write_parquet
from cxr_mm.core.paths import TaskPaths
from cxr_mm.imaging.quality import QUALITY_NAMES
from cxr_mm.models.bundle import load_bundle
from monitoring.reference import freeze, heldout_records, load_reference, reference
from monitoring.verdict import Window, evaluate_window


@pytest.fixture
def paths(tmp_path, frozen):
    """What ingest, embed and fuse leave of 120 studies, of which 100 are held out."""
    rng = np.random.default_rng(0)
    paths, n = TaskPaths("made_up", tmp_path), 120
    ids = [f"secret {i}" for i in range(n)]
    has_image, has_note = rng.random(n) < 0.9, rng.random(n) < 0.8
    manifest = pd.DataFrame(
        {
            "study_id": ids,
            "patient_id": [f"patient {i // 2}" for i in range(n)],
            "group": [f"patient {i // 2}" for i in range(n)],
            "image_path": None,
            "view": ["PA", None] * (n // 2),
            "site": None,
            "publisher": None,
            "part": None,
            "note": [f"note {i}" if present else None for i, present in enumerate(has_note)],
            "pixel_row": np.where(has_image, np.arange(n), -1),
            "clinical.age": rng.uniform(20, 80, n),
            "clinical.crp": np.where(rng.random(n) < 0.5, np.nan, 5.0),
            "clinical.sex": ["F", "M"] * (n // 2),
            "finding.pneumonia": rng.integers(0, 2, n).astype(float),
        }
    )
    write_parquet(paths.manifest, manifest)
    # Every image alike: what does not vary is not watched.
    same = {name: np.where(has_image, 0.5, np.nan) for name in QUALITY_NAMES}
    quality = pd.DataFrame({"study_id": ids, **same, "phash": "0"})
    write_parquet(paths.ingest / "quality.parquet", quality)
    paths.embeddings.mkdir(parents=True)
    image, note = (rng.normal(size=(n, d)).astype(np.float32) for d in (12, 8))
    tensors = {"image": image * has_image[:, None], "note": note * has_note[:, None]}
    save_file(tensors, paths.embeddings / "embeddings.safetensors")
    parts = {"image": [{"length": 12}], "note": [{"length": 5}, {"length": 3, "together": True}]}
    write_json(paths.embeddings / "parts.json", parts)
    held = manifest.loc[20:, ["study_id", "patient_id", "group"]].sample(frac=1, random_state=0)
    held = held.assign(
        fold=0,
        subset="available",
        **{
            "label.pneumonia": manifest["finding.pneumonia"],
            "logit.pneumonia": 0.0,
            "probability.pneumonia": rng.random(100),
            "threshold.pneumonia": 0.5,
            "positive.pneumonia": rng.random(100) < 0.5,
            "certainty.pneumonia": "present",
        },
    )
    write_parquet(paths.heldout, pd.concat([held, held.assign(subset="image")]))
    return paths


def run(paths, frozen, **changed):
    params = load_params(paths.root / "params.yaml")
    changed = {"components": 3, "resamples": 20, "window_sizes": (20, 50), **changed}
    params = params.model_copy(update={"reference": params.reference.model_copy(update=changed)})
    records, outcomes = heldout_records(frozen.task, paths, "d" * 64, 0, {"pneumonia": 0.4})
    freeze(frozen.task, "d" * 64, records, outcomes, params.reference, paths.reference, refused=3)
    return load_reference(paths.reference)


@pytest.fixture(autouse=True)
def params_file(tmp_path, request):
    project = request.config.rootpath / "params.yaml"
    (tmp_path / "params.yaml").write_text(project.read_text())


def test_stage_freezes_every_held_out_study_without_its_ids(paths, frozen):
    created = run(paths, frozen)
    manifest = pd.read_parquet(paths.manifest)
    assert len(created.table) == 100
    assert created.digest == "d" * 64
    ages = sorted(created.table["clinical.age"])
    assert ages == sorted(manifest["clinical.age"][20:])
    held = pd.read_parquet(paths.heldout)
    row = held[held["subset"] == "available"].iloc[7]
    study = manifest[manifest["study_id"] == row["study_id"]].iloc[0]
    stored = created.table.iloc[7]
    assert stored["clinical.age"] == study["clinical.age"]
    assert stored["has.image"] == ("yes" if study["pixel_row"] >= 0 else "no")
    assert stored["probability.pneumonia"] == row["probability.pneumonia"]
    assert stored["label.pneumonia"] == row["label.pneumonia"]
    assert (created.table["has.tabular"] == "yes").all()
    assert created.table["patient"].nunique() == 50
    assert set(created.projections) == {"image", "note"}
    assert created.table.loc[created.table["has.image"] == "no", "image_pc.0"].isna().all()
    written = b"".join(p.read_bytes() for p in paths.reference.iterdir())
    assert b"secret" not in written
    assert b"note 3" not in written
    assert 0 <= created.performance["pneumonia"]["auc"] <= 1
    assert set(created.thresholds.windows[0].mean) == {c.name for c in created.checks}


def test_held_out_studies_are_shared_out_as_serving_does(pipeline):
    bundle = load_bundle(pipeline.paths.bundle)
    records, _ = heldout_records(pipeline.task, pipeline.paths, bundle.digest, 0, bundle.prior)
    several = [record for record in records if len(record.modalities) > 1]
    assert several
    for record in several:
        for finding, shares in record.shares.items():
            assert tuple(shares) == record.modalities
            total = bundle.prior[finding] + sum(shares.values())
            assert total == pytest.approx(record.probabilities[finding], abs=1e-6)


def test_of_too_few_studies_the_stage_ends_well_and_says_what_it_cannot_judge(
    pipeline, tmp_path, monkeypatch
):
    monkeypatch.setattr(TaskPaths, "reference", tmp_path / "reference")
    reference(pipeline.task, pipeline.params, pipeline.paths)
    created = load_reference(tmp_path / "reference")
    assert created.thresholds.windows == ()
    few = f"the reference has {len(created.table)} held-out studies, 40 are needed"
    assert created.unjudged[-1] == few
    gate = "Rejected images: the model has no input gate"
    assert (gate in created.unjudged) == (created.images_rejected is None)
    table = pd.concat([created.table] * 5, ignore_index=True).assign(
        created_at=pd.Timestamp("2026-01-01", tz="UTC")
    )
    known = table.iloc[:0]
    verdict = evaluate_window(Window(table, known, known, len(table), 0), created).verdict
    assert verdict.status == "too_small"
    assert verdict.headline == f"no window can be judged: {few}"
    assert set(created.unjudged) <= set(verdict.notes)


def test_an_embedding_that_few_studies_have_is_left_out_and_said(paths, frozen):
    manifest = pd.read_parquet(paths.manifest)
    manifest.loc[manifest.index[25:], "note"] = None
    write_parquet(paths.manifest, manifest)
    created = run(paths, frozen)
    assert set(created.projections) == {"image"}
    assert any(text.startswith("Embedding of the note: ") for text in created.unjudged)
    assert created.thresholds.smallest == 20


def test_stage_gives_the_same_bytes_twice(paths, frozen):
    run(paths, frozen)
    first = {p.name: p.read_bytes() for p in paths.reference.iterdir()}
    run(paths, frozen)
    assert {p.name: p.read_bytes() for p in paths.reference.iterdir()} == first


def test_limits_grow_with_strictness_and_mix_between_sizes(paths, frozen):
    learnt = run(paths, frozen, resamples=200).thresholds
    assert learnt.limit(20, 0.01) >= learnt.limit(20, 0.05) >= learnt.limit(20, 0.2)
    low, high = sorted([learnt.limit(20, 0.05), learnt.limit(50, 0.05)])
    assert low <= learnt.limit(32, 0.05) <= high
    assert learnt.limit(5000, 0.05) == learnt.limit(50, 0.05)


def test_a_missing_stage_is_one_line(paths, frozen):
    paths.heldout.unlink()
    with pytest.raises(StageError, match="Run the stage fuse first"):
        run(paths, frozen)


def test_a_reference_that_is_damaged_or_of_another_version_is_refused(paths, frozen):
    run(paths, frozen)
    about = json.loads((paths.reference / "reference.json").read_text())
    old = {name: value for name, value in about.items() if name != "format"}
    for changed, message in (({**about, "task": {}}, "damaged"), (old, "another version")):
        (paths.reference / "reference.json").write_text(json.dumps(changed))
        with pytest.raises(StageError, match=message):
            load_reference(paths.reference)
