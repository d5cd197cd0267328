"""Stages: one command for each stage of `dvc.yaml`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cxr_mm.cli.options import (
    Address,
    AnyImage,
    Clinical,
    Engine,
    Image,
    Note,
    StudyId,
    TaskName,
    UseHeader,
    View,
    Workers,
    study_of,
)
from cxr_mm.core.allocator import without_collection
from cxr_mm.core.config import Params, for_task, load_params, with_split
from cxr_mm.core.errors import InputError
from cxr_mm.core.paths import TaskPaths, data_root
from cxr_mm.core.progress import Tracking
from cxr_mm.core.task import Task
from cxr_mm.export.tracking import TrackingName, tracking_run
from cxr_mm.inference.engine import EngineSettings, run_of

Server = Annotated[
    TrackingName,
    typer.Option(
        help="Tell MLflow of the run; `auto` does where MLFLOW_TRACKING_URI is set, `off` never."
    ),
]
commands = typer.Typer()
PANEL = "Stages (dvc repro runs them)"


def _stage(
    name: str, run: Callable[[Task, Params, TaskPaths], None], *, ingested: bool = True
) -> None:
    """Run a stage with the task's own parameters; after `ingest` without its rare findings."""
    from cxr_mm.core.task import load_task
    from cxr_mm.data.manifest import with_frequent_findings

    task = load_task(name)
    params, paths = for_task(load_params(), task), TaskPaths(task.name)
    if ingested:
        task = with_frequent_findings(task, paths)
    run(with_split(task, params.split), params, paths)


def _tracked(
    name: str,
    stage: str,
    run: Callable[[Task, Params, TaskPaths, Tracking], None],
    tracking: TrackingName,
) -> None:
    """Run a stage that a tracking server may be told of."""

    def tracked(task: Task, params: Params, paths: TaskPaths) -> None:
        with tracking_run(tracking, task.name, stage) as server:
            run(task, params, paths, server)

    _stage(name, tracked)


@commands.command(rich_help_panel=PANEL)
def resolve(task: TaskName) -> None:
    """Write the task, its parameters and the state of its data as files."""
    from cxr_mm.data.resolve import resolve as run

    _stage(task, lambda t, p, where: run(t, p, where, data_root()), ingested=False)


@commands.command(rich_help_panel=PANEL)
def ingest(
    task: TaskName, engine: Engine = "local", address: Address = "local", workers: Workers = 0
) -> None:
    """Build manifest and pixel cache from the source; print what was lost, and why."""
    from cxr_mm.data.ingest import ingest as run

    there = run_of(EngineSettings(name=engine, address=address, workers=workers))
    _stage(task, lambda t, p, where: print(run(t, p, where, data_root(), there)), ingested=False)


@commands.command(rich_help_panel=PANEL)
def split(task: TaskName) -> None:
    """Split by patient and audit leakage."""
    from cxr_mm.data.split import split as run

    _stage(task, run)


@commands.command("train-image", rich_help_panel=PANEL)
def train_image(task: TaskName, tracking: Server = "auto") -> None:
    """Train the image encoder; an interrupted training is resumed."""
    with without_collection():
        from cxr_mm.training.train_image import train_image as run

    _tracked(task, "train_image", run, tracking)


@commands.command(rich_help_panel=PANEL)
def embed(
    task: TaskName, engine: Engine = "local", address: Address = "local", workers: Workers = 0
) -> None:
    """Embed radiographs and notes."""
    with without_collection():
        from cxr_mm.training.embed import embed as run

    there = run_of(EngineSettings(name=engine, address=address, workers=workers))
    _stage(task, lambda t, p, where: run(t, p, where, there))


@commands.command(rich_help_panel=PANEL)
def fuse(
    task: TaskName,
    tracking: Server = "auto",
    engine: Engine = "local",
    address: Address = "local",
    workers: Workers = 0,
) -> None:
    """Train the fusion, calibrate it, choose operating points; write the bundle."""
    with without_collection():
        from cxr_mm.training.fuse import fuse as run

    there = run_of(EngineSettings(name=engine, address=address, workers=workers))
    _tracked(task, "fuse", partial(run, run=there), tracking)


@commands.command(rich_help_panel=PANEL)
def evaluate(task: TaskName, tracking: Server = "auto") -> None:
    """Compute metrics with intervals over patients, for every subset of modalities; plot them."""
    with without_collection():
        from cxr_mm.evaluation.evaluate import evaluate as run

    _tracked(task, "evaluate", run, tracking)


@commands.command(rich_help_panel=PANEL)
def explain(
    task: Annotated[
        str | None, typer.Argument(help="The stage: gallery and faithfulness of a task.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="One study: folder of the bundle.")] = None,
    image: Image = None,
    clinical: Clinical = None,
    note: Note = None,
    view: View = None,
    study_id: StudyId = None,
    use_header: UseHeader = False,
    finding: Annotated[
        list[str] | None, typer.Option(help="Only this finding; may be repeated.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only this method, or `all`; may be repeated. See docs/explain.md."),
    ] = None,
    faithfulness: Annotated[
        Path | None, typer.Option(help="faithfulness.json of the bundle, if it is elsewhere.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0,
    accept_any_image: AnyImage = False,
    out: Annotated[Path, typer.Option(help="Folder for the page, JSON and PNGs.")] = Path(
        "explanation"
    ),
) -> None:
    """Explain one study (with --bundle), or run the stage of a task."""
    if (task is None) == (bundle is None):
        raise InputError(
            "one of them is needed",
            field="TASK or --bundle",
            remedy="Name a task to run its stage, or a bundle to explain one study",
        )
    if bundle is None:
        with without_collection():
            from cxr_mm.explain.stage import explain as run

        _stage(str(task), run)
        return
    from cxr_mm.explain.study import Question, explain_study
    from cxr_mm.inference.predictor import load_predictor

    question = Question(tuple(finding or ()), tuple(method or ()), seed, faithfulness)
    predictor = load_predictor(bundle, accept_any_image)
    study = study_of(predictor.bundle.task, image, clinical, note, view, study_id, use_header)
    print(explain_study(predictor, study, question).write(out))
