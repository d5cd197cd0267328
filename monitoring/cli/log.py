"""Verbs of the prediction log: verify, erase, retain, export."""

from pathlib import Path
from typing import Annotated

import typer

from cxr_mm.core.errors import LogError
from cxr_mm.core.types import plural
from cxr_mm.core.verdict import EXIT_CODES
from cxr_mm.prediction_log import (
    Head,
    erase_patient,
    erase_study,
    open_log,
    retain,
    spool_folder,
    verify,
)
from cxr_mm.prediction_log.export import export_window
from monitoring.cli.options import Log, moment

commands = typer.Typer()
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@commands.command("verify")
def verify_log(
    log: Log,
    head: Annotated[
        list[str] | None,
        typer.Option(help="TABLE:POSITION:CHAIN as an earlier run printed it; as often as wanted."),
    ] = None,
) -> None:
    """Check that every row of the log is as it was written, and print where its chains end.

    Exit code: 0 whole, 20 broken, 2 error.
    """
    with open_log(log, create=False) as opened:
        result = verify(opened, map(Head.read, head or ()))
    for table, rows in result.rows.items():
        print(f"{table}: {rows} rows hold, {result.erased[table]} of them erased")
    if breaks := result.first_break:
        print(f"{breaks.table}: row {breaks.position} was {breaks.what}; nothing after it was read")
        raise typer.Exit(EXIT_CODES["alarm"])
    for end in result.heads:
        print(f"--head {end}")


@commands.command()
def erase(
    log: Log,
    patient: Annotated[
        str | None, typer.Option(help="Id of the patient, as it was typed or read.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Id of the study, as it was typed, read or answered with.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Erase the rows of one patient, or of one study."""
    if (patient is None) == (study is None):
        raise LogError("one of both is needed", field="erase", remedy="Give --patient or --study")
    act, of = (erase_study, study) if patient is None else (erase_patient, patient)
    assert of is not None
    with open_log(log, create=False) as opened:
        _ask(str(act(opened, of, dry_run=True)), yes)
        print(f"Erased: {act(opened, of)}.")
    _print_spooled(log)


@commands.command("retain")
def retain_since(
    log: Log,
    before: Annotated[
        str, typer.Option(help="Older rows are removed; ISO 8601, UTC without an offset.")
    ],
    yes: Yes = False,
) -> None:
    """Remove from the log what is older than a moment."""
    limit = moment(before)
    assert limit is not None
    with open_log(log, create=False) as opened:
        _ask(str(retain(opened, limit, dry_run=True)), yes)
        print(f"Removed: {retain(opened, limit)}.")
    _print_spooled(log)


@commands.command()
def export(
    log: Log,
    task: Annotated[str, typer.Option(help="Whose records.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    since: Annotated[str | None, typer.Option(help="Start of the window, ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(help="Its end (not included).")] = None,
    without_embeddings: Annotated[
        bool, typer.Option("--without-embeddings", help="Leave the vectors out.")
    ] = False,
) -> None:
    """Write a window of the log to a Parquet file."""
    with open_log(log, create=False, secret=False) as opened:
        window = moment(since), moment(until)
        count = export_window(opened, task, out, *window, embeddings=not without_embeddings)
    print(f"{plural(count, 'record')} written to {out}")


def _ask(plan: str, yes: bool) -> None:
    print(f"To go: {plan}.")
    if not yes:
        typer.confirm("For good?", abort=True)


def _print_spooled(log: str) -> None:
    """Print where records wait that are not in the log yet."""
    folder = spool_folder(log)
    if folder.is_dir() and any(folder.iterdir()):
        print(f"Some records still wait in {folder}; do this again when they are in the log.")
