"""Command lines of documents, Makefile and dvc.yaml: is each one that its program accepts?"""

import re
import shlex
from functools import cache
from pathlib import Path

import typer
import yaml

import app.__main__ as serving
from app.pacs import commands as pacs_commands
from app.security import auth
from benchmarks.harness.parts import PARTS
from cxr_mm import cli
from cxr_mm.core.task import own_tasks, shipped_tasks
from monitoring import cli as monitoring_cli

PROJECT = Path(__file__).parent.parent
STAGES = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
MAKEFILE = (PROJECT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
MAKE_VARIABLES = set(re.findall(r"^(?:export )?([A-Z_]+) \??:?=", MAKEFILE, re.MULTILINE))
OTHERS = {
    "cd",
    "cp",
    "curl",
    "docker",
    "echo",
    "export",
    "git",
    "kill",
    "pip",
    "pre-commit",
    "source",
}
OTHERS |= {"storescu", "sudo"}
"""Programs that are not ours."""
TOPS = ("docs", "tests", "cxr_mm", "app", "benchmarks", "monitoring", "examples")
PLACEHOLDER = re.compile(r"[A-Z]{2,}|…")
"""A word of capitals, or an ellipsis, stands for the reader's own."""


def _single(function):
    program = typer.Typer()
    program.command()(function)
    return typer.main.get_command(program)


PROGRAMS = {
    "cxr-mm pacs": typer.main.get_command(pacs_commands.commands),
    "cxr-mm": typer.main.get_command(cli.app),
    "python -m monitoring": typer.main.get_command(monitoring_cli.app),
    "python -m app.security.auth": _single(auth.main),
    "python -m app": _single(serving.serve),
}


def command_of(words):
    """What a line runs, and what is left of it: a click command and its arguments."""
    for program, command in PROGRAMS.items():
        name = program.split()
        if words[: len(name)] == name:
            rest = words[len(name) :]
            if rest and rest[0] in getattr(command, "commands", {}):
                return command.commands[rest[0]], rest[1:]
            assert not hasattr(command, "commands") or (rest and rest[0].startswith("-")), words
            return command, rest
    raise AssertionError(f"no program for {words}")


def check_options(words):
    """That the command is there, and every option that is written."""
    command, rest = command_of(words)
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    known |= {"--help", "-h"}
    for word in rest:
        if word.startswith("--") and word != "--":
            assert word.split("=")[0] in known, f"{shlex.join(words)}: no option {word}"


def check_whole(words):
    """As `check_options`, and that nothing is missing and every value is of its type."""
    command, rest = command_of(words)
    check_options(words)
    if "--help" not in rest:
        command.make_context(command.name or "", list(rest))


@cache
def _dvc():
    from dvc.cli.parser import get_main_parser

    return get_main_parser()


def commands_in(text):
    """The words of each simple command of a script, without redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, words = True, []
        tokens = iter(lexer)
        for token in tokens:
            if set(token) <= set("|&;"):
                yield words
                words = []
            elif set(token) <= set("<>&"):
                next(tokens, None)
            else:
                words.append(token)
        yield words


def check(words, *, whole=True):
    """Raise AssertionError where a command is none, has no such option, or names no such file."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words:
        return
    if any(words[: len(p.split())] == p.split() for p in PROGRAMS):
        (check_whole if whole else check_options)(words)
    elif words[0] == "make":
        _check_make(words[1:])
    elif words[0] == "dvc":
        given = [word for word in words[1:] if not PLACEHOLDER.fullmatch(word)]
        if whole or len(given) > 2:
            _dvc().parse_args(given)
    elif words[:3] == ["python", "-m", "benchmarks"]:
        assert {w for w in words[3:] if not re.match(r"--list|\[?PART|…", w)} <= set(PARTS), words
    elif words[0] != "python":
        assert words[0] in OTHERS, f"{words[0]} is no program that is known"
    _check_files(words)


def _check_make(words):
    given = [w for w in words if "=" not in w and not w.startswith("-")]
    variables = dict(w.split("=", 1) for w in words if "=" in w)
    assert set(given) <= TARGETS, words
    assert set(variables) <= MAKE_VARIABLES, words
    part = variables.get("PART", "PART")
    assert part in PARTS or PLACEHOLDER.fullmatch(part), words


def _check_files(words):
    for word in words:
        top, _, below = word.partition("/")
        if below and top in TOPS:
            assert (PROJECT / word).exists(), word
        if found := re.match(r"(?:models|serving)/(\w+)/(?:bundle|current)", word):
            assert found[1] in (*shipped_tasks(), *own_tasks()) or PLACEHOLDER.fullmatch(
                found[1]
            ), word
        stage, _, task = word.partition("@")
        if words[0] == "dvc" and task and stage in STAGES:
            assert task in shipped_tasks() or PLACEHOLDER.fullmatch(task), word
