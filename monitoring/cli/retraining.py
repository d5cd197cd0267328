"""Verbs of retraining: train a challenger, promote it, roll back."""

import logging
from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from cxr_mm.core.errors import ParamsError
from cxr_mm.models.registry import Pointer
from monitoring.cli.options import Log, moment

commands = typer.Typer()
By = Annotated[str, typer.Option("--by", help="Name of the person who decides this.")]
Served = Annotated[Path, typer.Option(help="Folder of the champion's bundle, or current.json.")]
REJECTED = 30
"""Exit code of a rejected challenger."""


def _margin(what: str) -> OptionInfo:
    option: OptionInfo = typer.Option(min=0.001, max=0.2, help=f"By how much {what}.")
    return option


@commands.command()
def retrain(
    bundle: Served,
    log: Log,
    studies: Annotated[
        Path, typer.Option(help="Folder with manifest.csv and images of the studies in the log.")
    ],
    since: Annotated[
        str | None, typer.Option(help="Start of the window, ISO 8601; UTC without an offset.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="End of the window (not included).")] = None,
    verdict: Annotated[
        Path | None, typer.Option(help="verdict.json of the report that led to this.")
    ] = None,
    holdout: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=0.9,
            help="Share of the studies, newest first, held out for the comparison.",
        ),
    ] = 0.4,
    margin: Annotated[float, _margin("AUC may be lower")] = 0.02,
    margin_subgroup: Annotated[float, _margin("AUC of a subgroup may be lower")] = 0.05,
    margin_brier: Annotated[float, _margin("the Brier score may be higher")] = 0.02,
    margin_ece: Annotated[float, _margin("the calibration error may be higher")] = 0.05,
    auto: Annotated[
        bool, typer.Option("--auto", help="Promote at once if the outcome is better.")
    ] = False,
    by: Annotated[
        str | None, typer.Option("--by", help="With --auto: name of the responsible person.")
    ] = None,
) -> None:
    """Train a challenger on older studies of the window and compare it on the newest.

    Exit code: 30 rejected, 2 error, 0 any other outcome. Without --auto the served model stays:
    read the change record, then promote.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from monitoring.retraining.comparison import Margins
    from monitoring.retraining.promotion import promote as switch
    from monitoring.retraining.retrain import RetrainRequest
    from monitoring.retraining.retrain import retrain as run

    if auto and not by:
        raise ParamsError("a name is missing", field="--auto", remedy="Name a person with --by")
    request = RetrainRequest(
        bundle=bundle,
        log=log,
        studies=studies,
        since=moment(since),
        until=moment(until),
        verdict=verdict,
        share=holdout,
        margins=Margins(
            auc=margin, subgroup_auc=margin_subgroup, brier=margin_brier, ece=margin_ece
        ),
    )
    record = run(request)
    print(f"{record.outcome}: {record.id}")
    for reason in record.reasons:
        print(f"  {reason}")
    print(f"  challenger number {record.attempt} on this frozen test")
    print(f"See serving/{record.task}/changes/{record.id}.md")
    if auto and by and record.outcome == "better":
        _print_pointer(switch(record.id, by))
    if record.outcome == "rejected":
        raise typer.Exit(REJECTED)


@commands.command()
def adopt(bundle: Served, by: By) -> None:
    """Let a bundle be the first version of its task that serves."""
    from monitoring.retraining.promotion import adopt as run

    _print_pointer(run(bundle, by))


@commands.command()
def promote(record: Annotated[str, typer.Option(help="ID of the change record.")], by: By) -> None:
    """Let the challenger of a change record serve; the app follows without a restart."""
    from monitoring.retraining.promotion import promote as run

    _print_pointer(run(record, by))


@commands.command()
def rollback(task: Annotated[str, typer.Option(help="Name of the task.")], by: By) -> None:
    """Let the version before serve again."""
    from monitoring.retraining.promotion import rollback as run

    _print_pointer(run(task, by))


def _print_pointer(pointer: Pointer) -> None:
    print(f"{pointer.task}: {pointer.digest[:12]} serves since {pointer.since:%Y-%m-%d %H:%M} UTC")
