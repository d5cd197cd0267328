"""The tutorial docs/own_data.md, run as it stands on a miniature set with quick parameters."""

import re
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cxr_mm import cli
from monitoring import cli as monitoring
from tests.conftest import SMALL
from tests.shell import PROJECT, STAGES, check, commands_in

PAGE = PROJECT / "docs/own_data.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICK = {
    **SMALL,
    "ingest": {"size": 64, "workers": 1},
    "split": {"protocol": "patient"},
    "fuse": {"inner_folds": 2, "gate_images": 20},
}


def run(app, words):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (words, done.output, done.exception)
    return done.output


def stages():
    """`dvc repro`, in this process."""
    texts = []
    for stage in STAGES.values():
        *program, verb, _ = stage["do"]["cmd"].split()
        texts.append(run(cli.app if program == ["cxr-mm"] else monitoring.app, [verb, "chest"]))
    return "".join(texts)


def edit(text):
    """What the reader does by hand: the blocks of YAML go into the task or into params.yaml."""
    given = yaml.safe_load(text)
    file = Path("params.yaml" if "tasks" in given else "tasks/chest.yaml")
    content = yaml.safe_load(file.read_text()) | given
    if "tasks" in given:
        content["per_task"]["chest"] |= QUICK
    file.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The project after the tutorial, and what each command printed."""
    printed = {}
    with chdir(tmp_path_factory.mktemp("own")):
        shutil.copy(PROJECT / "params.yaml", "params.yaml")
        for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
            if kind == "yaml":
                edit(text)
                continue
            for words in commands_in(text.replace("--studies 400", "--studies 48")):
                check(words)
                if words[0] == "cxr-mm":
                    printed[words[1]] = run(cli.app, words[1:])
                elif words[:2] == ["dvc", "repro"]:
                    printed["repro"] = stages()
        yield printed


def test_every_step_of_the_tutorial_works(ran):
    assert "effusion: finding" in ran["new-task"]
    assert re.search(r"^chest +ready", ran["tasks"], re.MULTILINE)
    assert "[95 % CI]" in ran["summary"]
    assert "from image, tabular, note" in ran["predict"]


def test_the_tutorial_leaves_what_it_promises(ran):
    for name in (
        "reports/chest/index.html",
        "reports/chest/model_card.md",
        "scored.csv",
        "explanation/index.html",
    ):
        assert Path(name).is_file()
    assert Path("models/chest/bundle/bundle.json").is_file()
    assert Path("models/chest/reference").is_dir()


def test_notes_are_masked_as_the_tutorial_says(ran):
    task = yaml.safe_load(Path("tasks/chest.yaml").read_text())
    assert task["note"]["mask"] == [r"effusion\w*", r"consolidat\w*", "pneumonia"]
    assert [f["name"] for f in task["findings"]] == ["consolidation", "effusion"]
    assert not {"effusion", "consolidation"} & {c["name"] for c in task["clinical"]}
