"""Data: what tasks there are, fetching their originals, synthetic studies."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cxr_mm.cli.options import TaskName, pairs
from cxr_mm.core.errors import InputError
from cxr_mm.core.paths import data_root

commands = typer.Typer()
PANEL = "Data"


@commands.command(rich_help_panel=PANEL)
def tasks() -> None:
    """List your own and the shipped tasks, and whether their data is found."""
    from cxr_mm.cli.doctor import describe_tasks

    print("\n".join(describe_tasks(data_root())))


@commands.command(rich_help_panel=PANEL)
def fetch(task: TaskName) -> None:
    """Download the public original of a task's data below the data root."""
    from cxr_mm.core.task import load_task
    from cxr_mm.data.fetch import fetch as run

    print(run(load_task(task), data_root()))


@commands.command(rich_help_panel=PANEL)
def synthesise(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    studies: Annotated[int, typer.Option(min=1, help="How many studies.")] = 200,
    seed: Annotated[int, typer.Option(help="Others give other studies.")] = 1,
    dial: Annotated[
        list[str] | None,
        typer.Option(help="Drift as NAME=VALUE (see docs/synthetic.md); may be repeated."),
    ] = None,
) -> None:
    """Write synthetic studies as a manifest CSV with images and masks."""
    from pydantic import ValidationError

    from cxr_mm.data.synthetic.population import SynthesisSpec
    from cxr_mm.data.synthetic.writer import synthesise as run

    given = pairs(dial or [], "--dial", "exposure=1.3")
    dials = {name: _value(text) for name, text in given.items()}
    try:
        spec = SynthesisSpec.model_validate({"studies": studies, "seed": seed, **dials})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(
            first["msg"], field=f"--dial {field}", remedy="See docs/synthetic.md for the dials"
        ) from error
    print(run(out, spec))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
