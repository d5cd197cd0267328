"""docs/reference: as generated, with each parameter, field and command, and none undescribed."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from cxr_mm.core.config import Params
from cxr_mm.core.task import Task

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
GENERATOR = Path(__file__).parents[1] / "docs/reference/generate.py"


@pytest.fixture(scope="module")
def pages():
    return {name: page() for name, page in runpy.run_path(str(GENERATOR))["PAGES"].items()}


def rows_of(page):
    """First and last cell of each row of the page's tables."""
    rows = re.findall(r"^\| (`.+?`) \|.*\| ?([^|]*) \|$", page.replace("\\|", "/"), re.MULTILINE)
    return {name.strip("`"): text.strip() for name, text in rows}


@pytest.mark.parametrize("name", ["parameters.md", "task_file.md", "commands.md", "openapi.json"])
def test_the_committed_page_is_the_generated_one(pages, name):
    committed = GENERATOR.with_name(name).read_text(encoding="utf-8")
    assert committed == pages[name], f"run python {GENERATOR}"


def test_every_parameter_of_every_stage_is_on_it_with_a_description(pages):
    pipeline = pages["parameters.md"].split("## monitoring.yaml")[0]
    rows = rows_of(pipeline)
    for stage, section in Params.model_fields.items():
        for name in getattr(section.annotation, "model_fields", {}):
            assert rows[name], f"{stage}.{name}"


def test_every_field_of_a_task_is_described(pages):
    rows = rows_of(pages["task_file.md"])
    assert set(Task.model_fields) <= set(rows)
    assert all(rows.values()), [name for name, text in rows.items() if not text]


def test_every_option_of_every_command_is_described(pages):
    for command in re.split(r"^##", pages["commands.md"], flags=re.MULTILINE)[1:]:
        rows = rows_of(command.replace("## `python -m benchmarks`", ""))
        undescribed = [name for name, text in rows.items() if not text]
        assert not undescribed, (command.splitlines()[0], undescribed)


def test_the_layers_that_are_drawn_are_those_of_the_contract():
    module = runpy.run_path(str(GENERATOR.parents[1] / "drawing.py"))
    rows = {name: row for row, rooms in enumerate(module["LAYERS"]) for name, *_ in rooms}
    contracts = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [c["layers"] for c in contracts if c["name"] == "Imports run one way"]
    order = [[name.strip().removeprefix("cxr_mm.") for name in e.split("|")] for e in layers[1:]]
    assert [{rows[name] for name in names} for names in order] == [
        {row} for row in range(len(order))
    ]
