import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_mm.core.config import EvaluateParams, Params
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json, sha256_file
from cxr_mm.core.paths import TaskPaths
from cxr_mm.evaluation.evaluate import evaluate
from cxr_mm.evaluation.report.text import summary

PARAMS = Params(tasks=("synthetic",), evaluate=EvaluateParams(bootstrap=100))
PNGS = ("roc", "roc_subsets", "precision_recall", "reliability", "confusion", "subgroups")
CSVS = ("roc", "precision_recall", "reliability", "confusion")


FILES = ("metrics", "subgroups", "shortcuts", "comparisons", "flags")


@pytest.fixture
def run(project_of):
    def of(task, table, root):
        paths = project_of(task, table, root)
        evaluate(task, PARAMS, paths)
        return paths

    return of


def vermilion(path):
    """Pixels at the top of a plot that have the colour of the mark."""
    with Image.open(path) as image:
        head = np.asarray(image.convert("RGB"))[:30].reshape(-1, 3)
    return (np.abs(head.astype(int) - [213, 94, 0]).max(axis=1) < 30).sum()


@pytest.mark.parametrize(
    ("problem", "protocol", "folds", "kind"),
    [
        ("binary", "folds", 4, "manifest_csv"),
        ("multiclass", "official", 1, "manifest_csv"),
        ("multilabel", "patient", 1, "synthetic"),
    ],
)
def test_stage_leaves_metrics_plots_and_a_summary(
    problem, protocol, folds, kind, task_of, table_of, run, tmp_path
):
    task = task_of(problem, kind, protocol)
    paths = run(task, table_of(task, folds=folds), tmp_path)
    metrics = read_json(paths.reports / "metrics.json")
    assert (metrics["protocol"], metrics["folds"]) == (protocol, folds)
    assert metrics["n_studies"] == 150
    assert metrics["synthetic"] == (kind == "synthetic")
    assert set(metrics["subsets"]) > {"available", "image", "image+tabular+note"}
    assert ("macro" in metrics["subsets"]["image"]) == (problem != "binary")
    for name in CSVS:
        assert len(pd.read_csv(paths.reports / "plots" / f"{name}.csv")) > 3
    for name in PNGS:
        png = paths.reports / "plots" / f"{name}.png"
        with Image.open(png) as image:
            assert 400 < image.width < 2000
            assert 400 < image.height < 2000
            assert np.asarray(image.convert("L")).std() > 5
        assert (vermilion(png) > 50) == (kind == "synthetic"), name
    assert all((paths.reports / f"{name}.json").stat().st_size > 2 for name in FILES)
    card = (paths.reports / "model_card.md").read_text()
    page = (paths.reports / "index.html").read_text()
    assert ("SYNTHETIC DATA" in card) == ("SYNTHETIC DATA:" in page) == (kind == "synthetic")
    named = set(re.findall(r'<a href="([^"#]+)"', page)) - {"explain/index.html"}
    assert len(named) == 11
    assert all((paths.reports / name).is_file() for name in named)
    _check_summary(metrics)


def _check_summary(metrics):
    text = summary(metrics)
    subset = metrics["subsets"]["image+note"]
    figures = subset.get("macro") or subset["findings"]["effusion"]
    line = next(line for line in text.splitlines() if line.startswith("image+note "))
    low, high = figures["auc"]["ci95"]
    assert f"{figures['auc']['value']:.3f} [{low:.3f}, {high:.3f}]" in line
    assert f"{figures['accuracy']['value']:.3f}" in line
    gain = metrics["fusion_gain"]
    figures = gain.get("macro") or gain["findings"]["effusion"]
    assert f"fusion gain: AUC {figures['difference']['value']:+.3f}" in text
    assert ("SYNTHETIC DATA" in text) == metrics["synthetic"]
    assert max(map(len, text.splitlines())) <= 100
    flags = [{"kind": "size", "text": f"flag {n} " + "long " * 30} for n in range(7)]
    text_with_flags = summary(metrics, flags)
    assert text_with_flags.startswith(text)
    assert "flag (size): flag 4" in text_with_flags
    assert "flag 5" not in text_with_flags
    assert text_with_flags.endswith("2 more flags in model_card.md")
    assert max(map(len, text_with_flags.splitlines())) <= 100


def test_same_input_same_bytes_and_old_plots_go(task_of, table_of, run, tmp_path):
    task = task_of(modalities=1)
    paths = run(task, table_of(task), tmp_path)
    reports = paths.reports
    files = {p.relative_to(reports): p.read_bytes() for p in reports.rglob("*.*")}
    digest = sha256_file(paths.heldout)
    (reports / "plots" / "old.png").write_bytes(b"")
    run(task, table_of(task).sample(frac=1, random_state=0), tmp_path)
    again = {p.relative_to(reports): p.read_bytes() for p in reports.rglob("*.*")}
    # Card and page cite the digest of the file of predictions, whose rows now stand otherwise.
    differing = []
    for name in ("model_card.md", "index.html"):
        lines = [found.pop(Path(name)).decode().splitlines() for found in (files, again)]
        differing += [a for a, b in zip(*lines, strict=True) if a != b]
    assert again == files
    assert len(differing) == 2
    assert all(digest in line for line in differing)
    names = {f"{n}.png" for n in PNGS} | {f"{n}.csv" for n in CSVS}
    assert {p.name for p in (reports / "plots").iterdir()} == names


def test_one_class_only_still_leaves_a_report(task_of, table_of, run, tmp_path):
    task = task_of(modalities=1)
    table = table_of(task)
    table["label.effusion"] = 1.0
    paths = run(task, table, tmp_path)
    metrics = read_json(paths.reports / "metrics.json")
    figures = metrics["subsets"]["available"]["findings"]["effusion"]
    assert figures["auc"]["reason"] == "every study has the finding"
    assert summary(metrics).splitlines()[2].split()[:3] == ["available", "150", "-"]
    assert (paths.reports / "plots" / "roc.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (None, "no such file"),
        (lambda t: t.drop(columns="probability.effusion"), "no column probability.effusion"),
        (lambda t: t[t["subset"] == "image"], "no held-out study"),
        (lambda t: t.assign(**{"probability.effusion": np.nan}), "not in [0, 1]"),
    ],
)
def test_bad_heldout_gives_one_line_and_leaves_nothing(spoil, words, task_of, table_of, tmp_path):
    task = task_of()
    paths = TaskPaths(task.name, tmp_path)
    if spoil is not None:
        paths.models.mkdir(parents=True)
        spoil(table_of(task)).to_parquet(paths.heldout)
    with pytest.raises(StageError) as caught:
        evaluate(task, PARAMS, paths)
    assert words in str(caught.value)
    assert "fuse@made_up" in str(caught.value)
    assert not paths.reports.exists()


def test_the_stages_before_leave_all_that_the_card_needs(pipeline):
    evaluate(pipeline.task, PARAMS, pipeline.paths)
    reports = pipeline.paths.reports
    card = (reports / "model_card.md").read_text()
    assert read_json(pipeline.paths.bundle / "bundle.json")["digest"] in card
    assert "SYNTHETIC DATA" in card
    subgroups = read_json(reports / "subgroups.json")
    assert list(subgroups["findings"]["effusion"])[:3] == ["age", "sex", "view"]
    assert subgroups["absent"] == {"site": "none of 3 sites has 20 studies"}
    shortcuts = read_json(reports / "shortcuts.json")
    assert set(shortcuts["embedding"]["traits"]) == {"age", "sex", "view", "site"}
