"""Command `new-task`: a commented YAML for the user's own table, checked."""

from pathlib import Path
from typing import Annotated

import typer

from cxr_mm.core.errors import InputError

commands = typer.Typer()
PANEL = "Data"


@commands.command("new-task", rich_help_panel=PANEL)
def new_task(
    name: Annotated[str, typer.Argument(help="Name: lower case letters, digits, underscores.")],
    csv: Annotated[Path, typer.Option(help="Your table, a row for each study.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, if it is not that of the table.")
    ] = None,
    finding: Annotated[
        list[str] | None,
        typer.Option(help="Column to predict; may be repeated. Default: columns of 0 and 1."),
    ] = None,
    study_column: Annotated[
        str | None, typer.Option(help="Column with an id of each study, if it is not found.")
    ] = None,
    patient_column: Annotated[
        str | None, typer.Option(help="Column with an id of the patient, if it is not found.")
    ] = None,
) -> None:
    """Write tasks/NAME.yaml for your own table, and check it."""
    from cxr_mm.core.files import write_text
    from cxr_mm.core.task import TASKS, load_task
    from cxr_mm.data.tables import read_table
    from cxr_mm.data.task_draft.draft import draft_of, task_yaml

    path = TASKS / f"{name}.yaml"
    if path.exists():
        raise InputError(
            "exists already", field=str(path), remedy="Choose another name, or delete it"
        )
    given = {"study_id": study_column, "patient_id": patient_column}
    named = {usual: column for usual, column in given.items() if column}
    draft = draft_of(csv, read_table(csv), images, finding or (), named)
    write_text(path, task_yaml(name, draft))
    task = load_task(path)
    print(f"{path}: {', '.join(task.finding_names)} from {', '.join(task.modalities)}")
    for line in draft.notes:
        print(f"  {line}")
    print(f"Look through it (units and ranges), add {name} to tasks in params.yaml, then:")
    print(f"  dvc repro ingest@{name} && dvc repro evaluate@{name} reference@{name}")
