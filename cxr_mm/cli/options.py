"""Options that several commands share, and how what was given becomes a study."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cxr_mm.core.errors import InputError
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.core.types import HeaderUse
from cxr_mm.inference.engine import EngineName

TaskName = Annotated[str, typer.Argument(help="A task's name, or the path of its YAML.")]
AnyImage = Annotated[
    bool,
    typer.Option(
        "--accept-any-image", help="Warn of a picture that is no such image; refuse none."
    ),
]
Image = Annotated[Path | None, typer.Option(help="PNG, JPEG or DICOM.")]
Clinical = Annotated[
    list[str] | None,
    typer.Option(
        help="Clinical features as NAME=VALUE, by name or column of the table; may be repeated."
    ),
]
Note = Annotated[str | None, typer.Option(help="Clinical note.")]
View = Annotated[str | None, typer.Option(help="View position, as PA or AP.")]
UseHeader = Annotated[
    bool,
    typer.Option("--use-header", help="Use age, sex and view of the DICOM header if not given."),
]
Engine = Annotated[
    EngineName, typer.Option(envvar="CXR_MM_ENGINE", help="Where to compute; see docs/scale.md.")
]
Address = Annotated[
    str,
    typer.Option(
        envvar="CXR_MM_ADDRESS",
        help="Ray's cluster: local starts one, auto or HOST:PORT joins one.",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        min=0, envvar="CXR_MM_WORKERS", help="Processes of Ray; 0 is one for each processor."
    ),
]
StudyId = Annotated[str | None, typer.Option(help="Id to answer with.")]


def study_of(
    task: Task,
    image: Path | None,
    clinical: list[str] | None,
    note: str | None,
    view: str | None,
    study_id: str | None,
    use_header: bool = False,
) -> Study:
    """Build the study that the options describe."""
    from cxr_mm.data.studies import build_study
    from cxr_mm.imaging.radiograph import read_radiograph

    values = pairs(clinical or [], "--clinical", "age=63")
    read = partial(read_radiograph, image) if image else None
    return build_study(task, read, values, note, view, study_id, header=header_use(use_header))


def header_use(use_header: bool) -> HeaderUse:
    """What becomes of the image's header: used where asked for, named otherwise."""
    return "use" if use_header else "name"


def pairs(texts: list[str], option: str, example: str) -> dict[str, str]:
    """`age=63` and the like."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(
                f"{text!r} is not NAME=VALUE", field=option, remedy=f"Write it as {example}"
            )
        if name in found:
            raise InputError(f"{name} is given twice", field=option, remedy="Give one value")
        found[name] = value
    return found
