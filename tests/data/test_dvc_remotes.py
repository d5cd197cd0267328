"""A DVC remote as docs/experiments.md sets it up: pushed to a real S3 server, pulled elsewhere."""

import re
import shlex
import shutil

import pytest

from tests.shell import PROJECT

BLOCK = re.compile(r"<!-- run by tests/data/test_dvc_remotes.py -->\n```sh\n(.*?)```", re.DOTALL)


@pytest.fixture
def dvc(tmp_path, monkeypatch):
    """Runs a command of DVC in a project of its own, in this process."""
    pytest.importorskip("dvc_s3", reason="pip install dvc-s3")
    from dvc.cli import main

    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")

    def run(folder, *words):
        monkeypatch.chdir(folder)
        assert main([*words, "-q"]) == 0, words

    return run


@pytest.mark.filterwarnings("ignore")  # of libraries that DVC uses
def test_what_was_pushed_is_pulled_elsewhere(s3, dvc, tmp_path):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    (here / "models").mkdir(parents=True)
    weights = here / "models" / "weights"
    weights.write_bytes(bytes(range(256)))
    dvc(here, "init", "--no-scm")
    dvc(here, "add", "models")
    (block,) = BLOCK.findall((PROJECT / "docs/experiments.md").read_text(encoding="utf-8"))
    *first, pull = (
        block.replace("https://s3.example.org", s3).replace("BUCKET", "radiographs").splitlines()
    )
    for line in first:
        dvc(here, *shlex.split(line)[1:])
    shutil.copytree(here, elsewhere, ignore=shutil.ignore_patterns("cache", "tmp", "models"))
    dvc(elsewhere, *shlex.split(pull)[1:])
    assert (elsewhere / "models" / "weights").read_bytes() == weights.read_bytes()
