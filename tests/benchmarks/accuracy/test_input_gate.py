"""Part `input-gate`: every kind has its rows, and held out is what no gate has seen."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.accuracy import input_gate
from benchmarks.accuracy.input_gate import (
    KINDS_TABLE,
    LEARNT,
    MUST,
    Run,
    measure,
    ood_images,
)
from benchmarks.harness.outputs import RUNS_VARIABLE
from cxr_mm.core.paths import bundle_digest
from cxr_mm.data.split import load_split, resamples
from cxr_mm.models.input_gate import GateDecision, load_input_gate

FEW = {"photographs": [np.eye(40, 30, dtype=np.float32)], "blank": [np.ones((20, 20), np.float32)]}


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(input_gate, "ood_images", lambda: FEW)
    monkeypatch.setattr(input_gate, "SAMPLE", 12)
    monkeypatch.setattr(input_gate, "CORRUPTED", 12)
    monkeypatch.setattr(input_gate, "ELSEWHERE", 9)


@pytest.fixture(scope="module")
def judged(pipeline):
    """The run of the small pipeline, whose gates are fitted once."""
    return Run(pipeline.paths)


@pytest.fixture
def run(pipeline, few, judged, monkeypatch):
    """The same, as if it were the shipped task's."""
    monkeypatch.setattr(input_gate, "load_task", lambda name: pipeline.task)
    monkeypatch.setattr(input_gate, "load_params", lambda: pipeline.params)
    return judged


def test_a_run_has_rows_of_held_out_images_and_of_every_kind(run, pipeline, monkeypatch):
    monkeypatch.setenv(RUNS_VARIABLE, str(pipeline.paths.root))
    monkeypatch.setattr(input_gate, "Run", lambda paths: run)
    rows = measure()
    corrupted = [row for row in rows if row.row == "held-out images, corrupted"]
    assert [row.n for row in corrupted] == [12, 12]
    held_out = {row.metric: row for row in rows if row.row == "held-out images"}
    assert set(held_out) == {"refused", "refused or warned of"}
    assert (held_out["refused"].must, held_out["refused"].ceiling) == (MUST, True)
    assert held_out["refused"].value <= held_out["refused or warned of"].value
    assert held_out["refused"].n == sum(len(rows) for _, rows in run.gates)
    kinds = {row.row: row for row in rows if row.table == KINDS_TABLE and row.metric == "refused"}
    assert {"photographs", f"blank{LEARNT}", f"upside down{LEARNT}"} <= set(kinds)
    assert kinds[f"upside down{LEARNT}"].value > 0.8
    assert all(0 <= row.value <= 1 for row in rows)


@dataclass(frozen=True)
class Source:
    """A task, as far as other sources are told apart by it."""

    name: str
    folder: str
    images: int
    synthetic: bool = False

    @property
    def task(self):
        return SimpleNamespace(synthetic=self.synthetic)

    @property
    def folders(self):
        return frozenset(self.folder.split())

    @property
    def pixels(self):
        return range(self.images)


def test_another_source_is_a_folder_of_radiographs_that_the_task_does_not_use():
    large, small = Source("nih", "nih14", 1095), Source("effusion", "nih14", 636)
    covid, children = Source("covid", "cohen", 443), Source("pneumonia", "kermany", 5840)
    phantoms = Source("synthetic", "", 900, synthetic=True)
    merged = Source("sites", "nih14 cohen", 700)
    every = [large, small, covid, children, phantoms, merged]
    assert set(input_gate._other_sources(small, every)) == {covid, children}
    assert set(input_gate._other_sources(children, every)) == {covid, large}
    assert input_gate._other_sources(merged, every) == [children]
    assert input_gate._other_sources(phantoms, every) == []


def test_what_the_bundles_gate_rejects_elsewhere_is_written_for_the_card(
    run, pipeline, monkeypatch
):
    paths = pipeline.paths
    written = {}
    monkeypatch.setattr(
        input_gate, "write_json", lambda path, content: written.update({path: content})
    )
    monkeypatch.setattr(input_gate, "_other_sources", lambda run, runs: [run])
    rows = list(input_gate._elsewhere(run, [run]))
    assert [(row.metric, row.n, row.must) for row in rows] == [
        ("refused", 9, MUST),
        ("refused or warned of", 9, None),
    ]
    ((path, content),) = written.items()
    assert path == paths.input_gate
    assert content["digest"] == bundle_digest(paths.bundle)
    ((_, found),) = content["sources"].items()
    assert found["n"] == 9
    assert 0 <= found["rejected"]["value"] <= found["flagged"]["value"] <= 1


def test_the_gate_of_one_split_is_that_of_the_bundle(run, pipeline):
    ((gate, unseen),) = run.gates
    stored = load_input_gate(pipeline.paths.bundle)
    assert gate.spec.images == stored.spec.images
    np.testing.assert_allclose(gate.weight, stored.weight, rtol=1e-3, atol=1e-4)
    test = resamples(load_split(pipeline.paths))[0].test
    assert set(unseen) == set(run._images_of(test))


def test_with_folds_each_gate_learns_from_all_others(run, monkeypatch):
    rows = np.arange(len(run.manifest))
    parts = [SimpleNamespace(fold=k, test=rows[rows % 2 == k]) for k in (0, 1)]
    monkeypatch.setattr(input_gate, "resamples", lambda table: parts)
    images = run._images_of(rows)
    learnt, in_folds = [], Run(run.paths)

    def fit(embeddings, some, copies, params):
        learnt.append(set(some.pixel_rows))
        return SimpleNamespace(check=lambda e: [GateDecision(True, "unlike")] * len(e)), ()

    copies = SimpleNamespace(of=lambda stored: None)
    monkeypatch.setattr(input_gate, "ood_copies", lambda *given: copies)
    monkeypatch.setattr(input_gate, "fit_input_gate", fit)
    for (_, unseen), used in zip(in_folds.gates, learnt, strict=True):
        assert set(unseen) | used == set(images)
        assert not set(unseen) & used


def test_ood_images_come_from_what_is_installed_or_drawn():
    pictures = ood_images()
    assert {"photographs", "drawings", "charts", "pages of text", "CT slices"} <= set(pictures)
    for kind, some in pictures.items():
        for picture in some:
            assert picture.ndim == 2, kind
            assert picture.dtype == np.float32, kind
            assert picture.min() >= 0, kind
            assert picture.max() <= 1, kind


def test_without_a_package_its_pictures_are_left_out(monkeypatch):
    monkeypatch.setattr(input_gate, "_folder", lambda package: None)
    monkeypatch.setattr(input_gate, "DRAWINGS", 1)
    pictures = ood_images()
    assert "photographs" not in pictures
    assert "CT slices" not in pictures
    assert pictures["drawings"]


def test_tasks_without_an_encoder_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path))
    assert measure() == []
