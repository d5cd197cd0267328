"""The command group of the node: found by the command line where it is meant, and only there."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from app.pacs.commands import commands
from cxr_mm import cli
from cxr_mm.core.errors import ParamsError
from tests.app.pacs.conftest import node_fields

PROJECT = tomllib.loads(Path("pyproject.toml").read_text())


@pytest.fixture
def entry(monkeypatch):
    """The command line with the entry point that the project has."""
    ((name, target),) = PROJECT["project"]["entry-points"][cli.OTHERS].items()
    found = [EntryPoint(name, target, cli.OTHERS)]
    monkeypatch.setattr(cli, "entry_points", lambda group: found if group == cli.OTHERS else [])
    monkeypatch.setattr(cli, "app", typer.Typer())


@pytest.mark.parametrize("words", [["pacs", "run"], ["--help"], []])
def test_the_group_is_there_where_it_is_meant_or_listed(entry, words):
    cli._add_others(words)
    (group,) = cli.app.registered_groups
    assert (group.name, group.typer_instance) == ("pacs", commands)


@pytest.mark.parametrize("words", [["predict", "x"], ["new-task"], ["unknown"]])
def test_other_commands_do_not_load_it(entry, words):
    cli._add_others(words)
    assert cli.app.registered_groups == []


def test_its_help_needs_neither_network_nor_model():
    code = (
        "import sys, app.pacs.commands as c; "
        "print([m for m in ('torch', 'pynetdicom', 'sqlalchemy', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_file_is_checked(tmp_path):
    path = tmp_path / "node.yaml"
    path.write_text(yaml.safe_dump(node_fields(tmp_path)))
    done = CliRunner().invoke(commands, ["check-config", str(path)])
    assert done.output == f"{path}: CXRMM on 127.0.0.1 port 11112, 1 peers, 1 rules, no TLS\n"
    path.write_text("ae_title: X")
    done = CliRunner().invoke(commands, ["check-config", str(path)])
    assert isinstance(done.exception, ParamsError)


def test_the_password_of_a_database_is_checked(tmp_path, monkeypatch):
    sql = {
        "url": "postgresql+psycopg://reader:{password}@labs/his",
        "secret_variable": "LABS_PASSWORD",
        "query": "SELECT code, value, unit, time FROM labs WHERE patient = :patient_id",
    }
    path = tmp_path / "node.yaml"
    path.write_text(yaml.safe_dump(node_fields(tmp_path, context={"sql": [sql]})))
    monkeypatch.delenv("LABS_PASSWORD", raising=False)
    done = CliRunner().invoke(commands, ["check-config", str(path)])
    assert isinstance(done.exception, ParamsError)
    assert done.exception.field == "LABS_PASSWORD"
    monkeypatch.setenv("LABS_PASSWORD", "x")
    assert CliRunner().invoke(commands, ["check-config", str(path)]).exit_code == 0
