"""Options that several verbs of monitoring share."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cxr_mm.core.errors import LogError

Bundle = Annotated[Path, typer.Option(help="Folder of the model's bundle.")]
Log = Annotated[str, typer.Option(help="Prediction log, as sqlite:///predictions.db.")]
Frozen = Annotated[
    Path | None, typer.Option(help="Folder of the stage reference; default: beside the bundle.")
]


def moment(text: str | None) -> datetime | None:
    """A moment as it is typed, UTC where it says no offset.

    Raises:
        LogError: it is no moment.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise LogError(
            "no time", field=text, remedy="Write it as 2026-03-01 or 2026-03-01T12:00+01:00"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
