"""Every block and every command of every document is run by a test, or checked, or says why not.

A block is run where the comment before it, or on the first line of its page, names the test:
`<!-- run by tests/… -->`. One that is not run and cannot be checked says why:
`<!-- not run: … -->`. Lines of `sh` blocks, and commands in the text, are read as their programs
would read them.
"""

import hashlib
import hmac
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from app.pacs.settings import NodeSettings
from cxr_mm.core.config import Params, for_task
from cxr_mm.core.task import Task, load_task
from cxr_mm.data.synthetic.population import SynthesisSpec
from cxr_mm.data.synthetic.writer import synthesise
from tests.shell import PROGRAMS, PROJECT, check, commands_in

PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((PROJECT / "docs").rglob("*.md")),
]
MARK = r" *<!-- ((?:run by|not run:) .+?) -->\n"
FENCE = re.compile(
    rf"^(?:{MARK})?(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
SHELL = ("sh", "bash", "console")
CODE = (*SHELL, "python")
INLINE = re.compile(r"`((?:cxr-mm|python -m|make|dvc) [^`]+)`")
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    kind: str
    mark: str
    text: str

    def __str__(self):
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


def blocks_of(page):
    content = page.read_text(encoding="utf-8")
    whole = re.match(MARK, content)
    for found in FENCE.finditer(content):
        line = content[: found.start("kind")].count("\n") + 1
        mark = found[1] or (whole[1] if whole else "")
        yield Block(page, line, found["kind"], mark, dedent(found["text"]))


EXAMPLE = {"name": "x", "title": "X", "problem": "multilabel", "licence": "", "citation": ""}
"""What an example of a few fields leaves out of a task."""
BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def test_every_fence_is_found_and_has_a_language():
    fences = sum(page.read_text(encoding="utf-8").count("```") for page in PAGES)
    assert fences == 2 * len(BLOCKS)
    assert [str(block) for block in BLOCKS if not block.kind] == []


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind in CODE and not b.mark], ids=str)
def test_a_block_that_no_test_runs_is_of_commands_that_there_are(block):
    assert block.kind in SHELL, "say which test runs it, or why none does"
    for words in commands_in(block.text):
        check(words)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.mark], ids=str)
def test_a_mark_names_a_test_that_reads_the_page_or_gives_a_reason(block):
    kind, _, what = block.mark.partition(" ")
    if kind == "run":
        test = PROJECT / what.removeprefix("by ")
        assert block.page.name in test.read_text(encoding="utf-8"), (test, block.page)
    else:
        assert len(what.split()) > 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_in_the_text_is_one(page):
    for line in INLINE.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        words = shlex.split(line)
        if "…" not in words[:3] and " ".join(words) not in (*PROGRAMS, "python -m benchmarks"):
            check(words, whole=False)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "yaml"], ids=str)
def test_yaml_is_what_its_reader_accepts(block):
    fields = yaml.safe_load(block.text)
    if "findings" in fields:
        Task.model_validate(EXAMPLE | fields)
    elif {"tasks", "per_task"} & fields.keys():
        params = Params.model_validate(fields)
        for name in params.per_task:
            for_task(params, load_task("synthetic").model_copy(update={"name": name}))
    elif block.page.name == "pacs.md":
        first = next(b for b in BLOCKS if b.page == block.page and b.kind == "yaml")
        NodeSettings.model_validate(yaml.safe_load(first.text) | fields)
    else:
        assert isinstance(fields, dict)


def test_python_of_the_documents_runs(pipeline, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("models/synthetic").mkdir(parents=True)
    Path("models/synthetic/bundle").symlink_to(pipeline.paths.bundle)
    synthesise(Path("demo"), SynthesisSpec(studies=1, seed=7, image_absent=0), workers=1)
    (image,) = Path("demo/images").iterdir()
    image.rename("image.png")
    Path("demo/images/syn1-00000.png").symlink_to(Path("image.png").resolve())
    ran = {}
    for block in BLOCKS:
        if block.mark == "run by tests/test_documents.py":
            names = {"__name__": "__main__"}
            exec(compile(block.text.replace("studies=500", "studies=2"), str(block), "exec"), names)
            ran[block.page.name] = names, capsys.readouterr().out
    assert set(ran) == {"README.md", "index.md", "explain.md", "monitoring.md", "synthetic.md"}
    assert re.search(r"'Pleural effusion': 0\.\d", ran["README.md"][1])
    assert re.search(r"Pleural effusion 0\.\d", ran["index.md"][1])
    assert "['grad_cam', 'shap_note']" in ran["explain.md"][1]
    assert Path("drifted/manifest.csv").is_file()
    body, stamp = b"{}", str(int(time.time()))
    signed = hmac.new(b"key", f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"X-CXR-MM-Timestamp": stamp, "X-CXR-MM-Signature": f"sha256={signed}"}
    is_genuine = ran["monitoring.md"][0]["is_genuine"]
    assert is_genuine(headers, body, b"key")
    assert not is_genuine(headers, body, b"other")
