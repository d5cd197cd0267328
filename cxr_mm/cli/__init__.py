"""Command line: thin verbs over the layers; one clear line where something is wrong."""

import logging
import sys

import typer

from cxr_mm.cli import data, doctor, new_task, predict, stages
from cxr_mm.core.allocator import keep_freed_memory, skip_last_collection
from cxr_mm.core.processes import end_with_dvc, errors_as_one_line
from cxr_mm.core.progress import announce

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Multimodal chest radiograph models. Decision support for research only.",
)
for part in (stages, predict, data, new_task, doctor):
    app.add_typer(part.commands)

QUICK = ("resolve", "summary", "tasks", "version")
"""Commands that answer within a second or two."""


def main() -> None:
    """Run a command; an error that a user can fix is one line on stderr and exit code 2."""
    end_with_dvc()
    keep_freed_memory()
    skip_last_collection()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for chatty in ("httpx", "timm"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        with errors_as_one_line():
            if (command := next(iter(sys.argv[1:]), "-")) not in QUICK and command[0] != "-":
                announce(f"{command}: loading")
            app()
    except KeyboardInterrupt:
        print("error: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None
