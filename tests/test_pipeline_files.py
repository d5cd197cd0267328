"""The files that drive the project agree with its code: dvc.yaml, Makefile, README, locks."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image

from cxr_mm.core.config import PARAMS_FILE, Params
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import shipped_tasks
from tests.shell import MAKEFILE, PROJECT, STAGES, TARGETS, check_options, command_of

TASKS = yaml.safe_load((PROJECT / PARAMS_FILE).read_text())["tasks"]
ITEM = "${item}"


def paths_in(entries):
    """Paths of deps, outs, plots or metrics, with or without options."""
    return [next(iter(e)) if isinstance(e, dict) else e for e in entries]


def outputs(stage):
    do = STAGES[stage]["do"]
    return [p for key in ("outs", "metrics", "plots") for p in paths_in(do.get(key, []))]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_runs_a_real_verb_for_every_task(stage):
    assert STAGES[stage]["foreach"] == "${tasks}"
    words = STAGES[stage]["do"]["cmd"].split()
    command, rest = command_of(words)
    assert command.name == stage.replace("_", "-")
    assert rest == [ITEM]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_what_is_there_or_is_made_before_it(stage):
    created = [p for prior in list(STAGES)[: list(STAGES).index(stage)] for p in outputs(prior)]
    for dep in paths_in(STAGES[stage]["do"].get("deps", [])):
        if ITEM not in dep:
            assert (PROJECT / dep).exists(), dep
        else:
            assert any(dep == out or dep.startswith(f"{out}/") for out in created), dep


ENTRY = {
    "ingest": "cxr_mm.data.ingest",
    "split": "cxr_mm.data.split",
    "train_image": "cxr_mm.training.train_image",
    "embed": "cxr_mm.training.embed",
    "fuse": "cxr_mm.training.fuse",
    "explain": "cxr_mm.explain.stage",
    "evaluate": "cxr_mm.evaluation.evaluate",
    "reference": "monitoring.reference",
}
"""The module that does the work of a stage."""


@pytest.fixture(scope="module")
def imports():
    return grimp.build_graph("cxr_mm", "monitoring", cache_dir=None)


def source_of(module):
    path = Path(*module.split("."))
    return path / "__init__.py" if (PROJECT / path).is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("stage", ENTRY)
def test_a_stage_watches_the_code_that_it_imports_and_no_other(stage, imports):
    modules = {ENTRY[stage]} | imports.find_upstream_modules(ENTRY[stage])
    used = {source_of(module) for module in modules}
    watched = [Path(d) for d in paths_in(STAGES[stage]["do"]["deps"]) if ITEM not in d]
    if "cxr_mm.core.templates" in modules:
        used.add(Path("cxr_mm/templates/base.html"))
    code = {path for path in used if path.name != "__init__.py"}
    assert not {path for path in code if not any(path.is_relative_to(w) for w in watched)}
    assert not {str(w) for w in watched if not any(path.is_relative_to(w) for path in used)}


def test_every_stage_that_trains_or_measures_has_an_entry():
    assert set(STAGES) == {*ENTRY, "resolve"}


def test_resolved_sections_are_those_that_resolve_writes():
    known = (set(Params.model_fields) - {"tasks", "per_task"}) | {"task", "question", "source"}
    for stage, result in STAGES.items():
        deps = paths_in(result["do"].get("deps", []))
        named = {Path(d).stem for d in deps if "/resolved/" in d}
        assert named <= known
        if stage != "resolve":
            assert stage in named, f"{stage} does not watch its own parameters"


@pytest.mark.parametrize(
    ("stage", "properties"),
    [
        ("resolve", ["resolved"]),
        ("ingest", ["ingest"]),
        ("split", ["split"]),
        ("train_image", ["image_encoder"]),
        ("embed", ["embeddings"]),
        ("fuse", ["bundle", "heldout"]),
        ("explain", ["explanations"]),
        ("reference", ["reference"]),
    ],
)
def test_outputs_are_where_the_code_writes_them(stage, properties):
    paths = TaskPaths(ITEM)
    assert {str(getattr(paths, name)) for name in properties} <= set(outputs(stage))


def test_metrics_do_not_wait_for_explanations():
    explained = set(outputs("explain"))
    deps = {dep for stage in STAGES for dep in paths_in(STAGES[stage]["do"].get("deps", []))}
    assert not explained & deps
    assert list(STAGES)[-1] == "explain"  # DVC keeps this order where no stage waits for another


def test_dvc_keeps_every_report_and_compares_the_headline():
    do = STAGES["evaluate"]["do"]
    entries = [e for key in ("outs", "metrics", "plots") for e in do[key]]
    options = [next(iter(e.values())) for e in entries if isinstance(e, dict)]
    assert all(option.get("cache", True) for option in options)
    assert paths_in(do["metrics"]) == ["reports/${item}/headline.json"]
    assert {Path(p).name for p in outputs("evaluate")} >= {"metrics.json", "model_card.md"}


def test_plots_of_dvc_load_nothing_and_show_each_curve_as_an_image(tmp_path):
    plots = STAGES["evaluate"]["do"]["plots"]
    charts = {Path(path).stem for entry in plots if isinstance(entry, dict) for path in entry}
    assert charts <= {Path(path).stem for path in paths_in(plots) if path.endswith(".png")}
    private = shutil.ignore_patterns("cache", "tmp", "config.local")
    shutil.copytree(PROJECT / ".dvc", tmp_path / ".dvc", ignore=private)
    (tmp_path / "roc.csv").write_text("fpr,tpr,finding\n0,0,effusion\n1,1,effusion\n")
    Image.new("L", (4, 4)).save(tmp_path / "roc.png")
    chart = {"x": "fpr", "y": "tpr", "template": "curves"}
    named = yaml.safe_dump({"plots": [{"roc.csv": chart}, "roc.png"]})
    (tmp_path / "dvc.yaml").write_text(named)
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "plots", "show"]):
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    page = (tmp_path / "dvc_plots/index.html").read_text()
    assert "vegaEmbed('#" in page
    assert re.findall(r"<script[^>]* src=|<link|@import", page) == []
    assert re.findall(r'src="([^"]+)"', page) == ["static/workspace_roc.png"]


def test_every_output_is_in_the_tasks_own_folders():
    paths = TaskPaths(ITEM)
    roots = (paths.data, paths.models, paths.reports)
    every = [Path(p) for stage in STAGES for p in outputs(stage)]
    assert len(set(every)) == len(every)
    assert all(any(p.is_relative_to(root) for root in roots) for p in every)


def test_the_tasks_that_are_run_are_shipped():
    assert set(TASKS) <= set(shipped_tasks())


def test_ci_runs_the_projects_own_checks():
    lines = (PROJECT / ".ci/run").read_text().splitlines()
    assert lines[-1] == "exec make test"
    assert "set -euo pipefail" in lines
    assert (PROJECT / ".ci/run").stat().st_mode & 0o111


def test_make_test_runs_every_check():
    (first, beside) = re.findall(
        r"^test: ([a-z ]+?) *##.*\n\t@\$\(MAKE\) --no-print-directory --jobs 3 ([a-z ]+)$",
        MAKEFILE,
        re.MULTILINE,
    )[0]
    assert first.split() == ["lint"]
    assert beside.split() == ["imports", "types", "pytest"]
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == TARGETS


def test_make_calls_verbs_that_there_are():
    lines = re.findall(r"^\t@?((?:cxr-mm|python -m (?:app|monitoring)) .*)$", MAKEFILE, re.M)
    assert lines
    for line in lines:
        check_options(line.split())


def locked():
    """What is installed, by name; weights come from a second lock, with their digests."""
    files = [PROJECT / name for name in ("requirements.lock", "requirements-weights.lock")]
    lines = [line.split(" --hash=")[0] for f in files for line in f.read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pins = {}
    for requirement in found:
        (pin,) = requirement.specifier
        assert pin.operator == "==", requirement
        assert requirement.name.lower() not in pins, requirement
        pins[requirement.name.lower()] = Version(pin.version)
    return pins


def test_the_lock_pins_every_dependency_within_its_bounds():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    pins = locked()
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["dev"], *extras["docs"]]:
        wanted = Requirement(text)
        assert wanted.name.lower() in pins, text
        assert wanted.specifier.contains(pins[wanted.name.lower()]), text
