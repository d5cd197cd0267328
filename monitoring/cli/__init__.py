"""Command line of monitoring: thin verbs; one clear line where something is wrong."""

import typer

from cxr_mm.core.allocator import keep_freed_memory, skip_last_collection
from cxr_mm.core.processes import end_with_dvc, errors_as_one_line
from monitoring.cli import log, reports, retraining, running

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Has the data or the concept drifted since the model was made?\n\n"
    "Research use only. Nothing leaves this machine.",
)
for part in (reports, running, retraining, log):
    app.add_typer(part.commands)


def main() -> None:
    """Run a verb; an error that a user can fix is one line on stderr and exit code 2."""
    end_with_dvc()
    keep_freed_memory()
    skip_last_collection()
    with errors_as_one_line():
        app(prog_name="python -m monitoring")
