"""This machine: what it has, what the pipeline left on it, which version runs."""

from typing import Annotated

import typer

from cxr_mm import __version__
from cxr_mm.cli.options import TaskName
from cxr_mm.paths import TaskPaths

commands = typer.Typer()
PANEL = "This machine"


@commands.command(rich_help_panel=PANEL)
def doctor(
    speed: Annotated[bool, typer.Option(help="Measure fp32 against bf16.")] = True,
) -> None:
    """Say what this machine has, and what to do about what is missing."""
    from cxr_mm.doctor import examine

    print("\n".join(examine(speed)))


@commands.command(rich_help_panel=PANEL)
def summary(task: TaskName) -> None:
    """Print the metrics that `evaluate` left, and how to open the app."""
    from cxr_mm.data.tasks import load_task
    from cxr_mm.errors import StageError
    from cxr_mm.evaluation.summary import summary as run
    from cxr_mm.files import read_json

    paths = TaskPaths(load_task(task).name)
    metrics = paths.reports / "metrics.json"
    if not metrics.is_file():
        raise StageError("no such file", field=str(metrics), remedy="Run dvc repro")
    flags = paths.reports / "flags.json"
    print(run(read_json(metrics), read_json(flags) if flags.is_file() else ()))
    print(f"\nOpen the app: make app, or python -m app --bundle {paths.bundle}")


@commands.command(rich_help_panel=PANEL)
def version() -> None:
    """Print the version."""
    print(__version__)
