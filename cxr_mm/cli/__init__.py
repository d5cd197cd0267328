"""Command line: thin verbs over the layers; one clear line where something is wrong."""

import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import entry_points

import typer
from typer.main import get_command_name
from typer.models import CommandInfo

from cxr_mm.cli import data, doctor, export, new_task, predict, stages
from cxr_mm.core.allocator import keep_freed_memory, skip_last_collection
from cxr_mm.core.processes import end_with_dvc, errors_as_one_line
from cxr_mm.core.progress import heartbeat

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Multimodal chest radiograph models. Decision support for research only.",
)
PARTS = (stages, predict, export, data, new_task, doctor)
for part in PARTS:
    app.add_typer(part.commands)

OTHERS = "cxr_mm.commands"
"""Group of entry points by which other packages add groups of commands."""
QUICK = ("report", "resolve", "summary", "tasks", "version")
"""Commands that answer within a second or two."""


def _add_others(words: Sequence[str]) -> None:
    """Add groups of commands of other packages, where one is meant or all are listed.

    Looking for them takes as long as some of our own commands, which are not made to wait.
    """
    if words and words[0] in _own():
        return
    for entry in entry_points(group=OTHERS):
        if not words or words[0] in (entry.name, "-h", "--help"):
            app.add_typer(entry.load(), name=entry.name, rich_help_panel=predict.PANEL)


def _own() -> set[str]:
    return {_name(each) for part in PARTS for each in part.commands.registered_commands}


def _name(command: CommandInfo) -> str:
    return command.name or get_command_name(getattr(command.callback, "__name__", ""))


def _heartbeat(words: Sequence[str]) -> AbstractContextManager[None]:
    """A heartbeat of a command that may take seconds; it names the task, if one is meant.

    Commands of other packages have none: one that runs for ever would write lines for ever.
    """
    named = [word for word in words[:2] if word[:1] not in ("", "-")]
    is_quick = words[:1] and (words[0] in QUICK or words[0] not in _own())
    if not named or is_quick or {"-h", "--help"} & set(words):
        return nullcontext()
    return heartbeat(" ".join(named))


def main() -> None:
    """Run a command; an error that a user can fix is one line on stderr and exit code 2."""
    end_with_dvc()
    keep_freed_memory()
    skip_last_collection()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for chatty in ("aiobotocore", "botocore", "httpx", "timm"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        with errors_as_one_line(), _heartbeat(sys.argv[1:]):
            _add_others(sys.argv[1:])
            app()
    except KeyboardInterrupt:
        print("error: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None
