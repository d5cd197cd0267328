"""The files of the project itself: how to contribute, what continuous integration runs, what a
wheel contains, and that all of them agree with the code."""

import fnmatch
import re
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from cxr_mm import __version__
from cxr_mm.data.sources import SOURCES

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("cxr_mm", "app", "monitoring")
"""Those that are installed."""
PLACE = re.compile(r"`((?:[\w.-]+/)*[\w-]*\.(?:py|yaml|md|lock|toml|cff))`(?: \(([^)]*`[^)]*)\))?")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_each_file_that_a_page_names_is_there_with_what_it_is_said_to_hold(page):
    places = PLACE.findall(text_of(page))
    assert places
    for name, held in places:
        content = text_of(name)
        for word in re.findall(r"`(\w+)`", held):
            assert re.search(rf"\b{word}\b", content), (name, word)


def test_every_source_is_where_the_recipe_for_one_says():
    """Of those that read one layout; `synthetic` is made, and shares its name with a task."""
    for kind in SOURCES:
        assert f'"{kind}"' in text_of("cxr_mm/core/task.py"), kind
        assert f"| `{kind}` |" in text_of("docs/tasks.md"), kind
        assert (ROOT / f"cxr_mm/data/sources/{kind.removesuffix('14')}.py").is_file() or (
            ROOT / f"cxr_mm/data/sources/{kind}.py"
        ).is_file(), kind
        assert (ROOT / f"tests/data/sources/test_{kind}.py").is_file(), kind


def test_the_version_is_the_same_everywhere():
    assert PYPROJECT["project"]["version"] == __version__
    assert yaml.safe_load(text_of("CITATION.cff"))["version"] == __version__
    assert re.search(r"^## \[(.+?)\]", text_of("CHANGELOG.md"), re.M)[1] == __version__


def test_the_changelog_has_the_sections_of_keep_a_changelog():
    known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for version in re.split(r"^## ", text_of("CHANGELOG.md"), flags=re.M)[1:]:
        sections = re.findall(r"^### (.+)$", version, re.M)
        assert sections == [name for name in known if name in sections]


def test_continuous_integration_runs_the_test_command_of_the_readme():
    workflow = yaml.safe_load(text_of(".github/workflows/ci.yml"))
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make test"]
    assert re.search(r"^make test\b", text_of("README.md"), re.M)
    (python,) = [
        step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")
    ]
    assert PYPROJECT["project"]["requires-python"] == f">={python}"
    assert workflow["permissions"] == {"contents": "read"}


def test_continuous_integration_builds_and_runs_the_image():
    steps = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]["images"]["steps"]
    (env,) = [step["env"] for step in steps if "tests/test_images.py" in step.get("run", "")]
    assert all(
        f'"{name}") != "{value}"' in text_of("tests/test_images.py") for name, value in env.items()
    )


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_of_the_lock_takes_the_oldest_python_that_the_project_takes():
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=") + ".0"
    named = re.findall(r"^([\w.-]+)==", text_of("requirements.lock"), re.MULTILINE)
    lock = {plain(name) for name in named}
    needs = {
        d.name: d.metadata.get("Requires-Python") for d in distributions() if plain(d.name) in lock
    }
    assert len(needs) > 100
    assert [
        name for name, python in needs.items() if oldest not in SpecifierSet(python or "")
    ] == []


def test_hooks_before_a_commit_are_programs_of_the_environment():
    (repository,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    development = {
        re.split(r"[>=\[]", name)[0]
        for name in PYPROJECT["project"]["optional-dependencies"]["dev"]
    }
    assert repository["repo"] == "local"
    assert {hook["entry"].split()[0] for hook in repository["hooks"]} <= development


def test_forms_for_issues_are_complete_and_ask_for_no_patient_data():
    forms = {path.name: path.read_text() for path in (ROOT / ".github/ISSUE_TEMPLATE").iterdir()}
    for text in (t for name, t in forms.items() if name != "config.yml"):
        form = yaml.safe_load(text)
        assert {"name", "description", "body"} <= form.keys()
        assert all(part["type"] == "markdown" or part["id"] for part in form["body"])
    assert "No patient data" in forms["bug.yml"]


def test_every_file_that_the_code_reads_is_in_a_wheel():
    listed = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the project's files")
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    patterns = [f"{package}/{pattern}" for package in data for pattern in data[package]]
    for name in listed.stdout.splitlines():
        is_data = any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
        assert name.endswith(".py") != is_data, name
    for pattern in patterns:
        assert list(ROOT.glob(pattern)), pattern
    for folder in {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), folder  # without one it is no package
