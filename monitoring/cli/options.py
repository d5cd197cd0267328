"""Options that several verbs of monitoring share."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from cxr_mm.core.errors import LogError

Bundle = Annotated[Path, typer.Option(help="Folder of the model's bundle.")]
Log = Annotated[str, typer.Option(help="Prediction log, as sqlite:///predictions.db.")]
Frozen = Annotated[
    Path | None, typer.Option(help="Folder of the stage reference; default: beside the bundle.")
]
GroupBy = Annotated[
    Literal["site"] | None,
    typer.Option(
        help="A verdict for each site, all under one false-alarm rate, and how they differ."
    ),
]


def moment(text: str | None) -> datetime | None:
    """Parse a time from the command line; UTC without an offset.

    Raises:
        LogError: not a time.
    """
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise LogError(
            "not a time", field=text, remedy="Write it as 2026-03-01 or 2026-03-01T12:00+01:00"
        ) from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
