"""The layout: readable files and folders, and none of the words that the field's own replaced."""

import io
import re
import subprocess
import tokenize
from collections import Counter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
CODE = ("cxr_mm", "app", "monitoring", "benchmarks")
LONGEST_FILE, LARGEST_FOLDER = 600, 16
TOP = {*CODE, "tests", "docs", "examples", ".ci", ".dvc", ".github"}
"""Folders of the top level."""
WORDS = re.compile(
    r"\b(?:films?|filmed|nobody|oddness|foretold|foretells?|unanswered|mended|mendable|gravest"
    r"|unasked|readingroom|kept_films|written_aside|made_ahead|accept.any.film)\b",
    re.IGNORECASE,
)
"""Words that nothing says any more: not in code, messages, options or documents."""
NAMES = frozenset(
    [
        "said",
        "told",
        "asked",
        "doubt",
        "doubts",
        "counters",
        "slowed",
        "cues",
        "altered",
        "rival",
        "rivals",
        "judgement",
        "gathered",
        "wish",
        "bank",
        "effort",
        "broken",
        "emptied",
        "gravest",
        "telling",
        "as_it_is",
        "one_thread",
        "adopt_head",
        "rehearse",
        "first_look",
        "lay_out",
        "kept_back",
        "is_away",
        "clear_away",
        "give_back",
        "on_rest",
        "unasked",
    ]
)
"""Names that nothing has any more."""
QUOTED = {
    "cxr_mm/data/synthetic/phrases.yaml": {"film"},
    "benchmarks/harness/cluster.py": {"nobody"},
}
"""Words of synthetic clinical notes, which are data: `pre-op film`; and a user of Unix."""


@pytest.fixture(scope="module")
def tracked():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the project's files")
    return [Path(name) for name in listed.stdout.splitlines() if (PROJECT / name).is_file()]


@pytest.fixture(scope="module")
def code(tracked):
    return [path for path in tracked if path.parts[0] in CODE and path.suffix == ".py"]


def test_what_a_test_left_in_the_top_level_is_not_kept(tracked):
    assert {path.parts[0] for path in tracked if len(path.parts) > 1} <= TOP


def text_of(path):
    return (PROJECT / path).read_text(encoding="utf-8")


def test_no_file_of_code_is_too_long_and_no_folder_too_full(code):
    assert not [path for path in code if text_of(path).count("\n") > LONGEST_FILE]
    assert not {k: n for k, n in Counter(p.parent for p in code).items() if n > LARGEST_FOLDER}


def test_no_replaced_word_is_left(tracked):
    documents = [p for p in tracked if p.suffix == ".md" and p.parts[0] not in ("CHANGELOG.md",)]
    sources = [p for p in tracked if p.parts[0] in CODE and p.suffix in (".py", ".yaml", ".html")]
    found = {
        f"{path}: {word}"
        for path in (*documents, *sources)
        for word in WORDS.findall(text_of(path))
        if word not in QUOTED.get(path.as_posix(), ())
    }
    assert not found


def test_no_replaced_name_is_left(code):
    found = {
        f"{path}: {token.string}"
        for path in code
        for token in tokenize.generate_tokens(io.StringIO(text_of(path)).readline)
        if token.type == tokenize.NAME and token.string.strip("_").lower() in NAMES
    }
    assert not found


def test_every_situation_names_a_test_that_exists():
    table = text_of(Path("tests/faults/README.md"))
    file, named = "", 0
    for path, test in re.findall(r"`([\w/]+\.py)?(?:::(\w+))?`", table):
        file = path or file
        content = text_of(Path("tests") / file)
        assert not test or f"def {test}(" in content, (file, test)
        named += bool(test)
    assert named > 60
