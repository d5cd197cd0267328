"""Command line: thin verbs over the layers; one clear line where something is wrong."""

import json
import logging
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cxr_mm import __version__
from cxr_mm.contracts.prediction import Prediction
from cxr_mm.contracts.study import Study
from cxr_mm.contracts.task import Task
from cxr_mm.errors import CxrError, InputError
from cxr_mm.params import Params, for_task, load_params, with_split
from cxr_mm.paths import TaskPaths, data_root

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Multimodal chest radiograph models. Decision support for research only.",
)

TaskName = Annotated[str, typer.Argument(help="A task's name, or the path of its YAML.")]
BundleFolder = Annotated[Path, typer.Option("--bundle", help="Folder of the bundle.")]
ManifestFile = Annotated[Path, typer.Option("--manifest", help="CSV, one row per study.")]
AnyFilm = Annotated[
    bool,
    typer.Option("--accept-any-film", help="Warn of a picture that is no such film; refuse none."),
]
Image = Annotated[Path | None, typer.Option(help="PNG, JPEG or DICOM.")]
Clinical = Annotated[
    list[str] | None, typer.Option(help="Clinical features as NAME=VALUE; may be repeated.")
]
Note = Annotated[str | None, typer.Option(help="Clinical note.")]
View = Annotated[str | None, typer.Option(help="View position, as PA or AP.")]
StudyId = Annotated[str | None, typer.Option(help="Id to answer with.")]
Stage = Callable[[Task, Params, TaskPaths], None]


def _stage(name: str, run: Callable[[Task, Params, TaskPaths], None]) -> None:
    """Run a stage with the task's own parameters."""
    from cxr_mm.data.tasks import load_task

    task = load_task(name)
    params = for_task(load_params(), task)
    run(with_split(task, params.split), params, TaskPaths(task.name))


@app.command(rich_help_panel="Stages (dvc repro runs them)")
def resolve(task: TaskName) -> None:
    """Write down the task, its parameters and the state of its data."""
    from cxr_mm.data.resolve import resolve as run

    _stage(task, lambda t, p, where: run(t, p, where, data_root()))


@app.command(rich_help_panel="Stages (dvc repro runs them)")
def ingest(task: TaskName) -> None:
    """Source → manifest and pixel cache; each dropped row counted with its reason."""
    from cxr_mm.data.ingest import ingest as run

    _stage(task, lambda t, p, where: run(t, p, where, data_root()))


@app.command(rich_help_panel="Stages (dvc repro runs them)")
def split(task: TaskName) -> None:
    """Divide by patient and audit leakage."""
    from cxr_mm.data.split import split as run

    _stage(task, run)


@app.command("train-image", rich_help_panel="Stages (dvc repro runs them)")
def train_image(task: TaskName) -> None:
    """Train the image encoder; an interrupted training is resumed."""
    from cxr_mm.training.train_image import train_image as run

    _stage(task, run)


@app.command(rich_help_panel="Stages (dvc repro runs them)")
def embed(task: TaskName) -> None:
    """Embed radiographs and notes."""
    from cxr_mm.training.embed import embed as run

    _stage(task, run)


@app.command(rich_help_panel="Stages (dvc repro runs them)")
def fuse(task: TaskName) -> None:
    """Train the fusion, calibrate it, choose operating points; leaves the bundle."""
    from cxr_mm.training.fuse import fuse as run

    _stage(task, run)


@app.command(rich_help_panel="Stages (dvc repro runs them)")
def evaluate(task: TaskName) -> None:
    """Metrics with intervals over patients, for every subset of modalities; plots."""
    from cxr_mm.evaluation.evaluate import evaluate as run

    _stage(task, run)


@app.command(rich_help_panel="Stages (dvc repro runs them)")
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
    finding: Annotated[
        list[str] | None, typer.Option(help="Only this finding; may be repeated.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only this method, or `all`; may be repeated. See docs/explain.md."),
    ] = None,
    faithfulness: Annotated[
        Path | None, typer.Option(help="faithfulness.json of the bundle, if it lies elsewhere.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    accept_any_film: AnyFilm = False,
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
        from cxr_mm.explain.stage import explain as run

        _stage(str(task), run)
        return
    from cxr_mm.explain.one import Question, explain_to
    from cxr_mm.inference import load_predictor

    question = Question(tuple(finding or ()), tuple(method or ()), seed, faithfulness)
    study = _study(image, clinical, note, view, study_id)
    print(explain_to(load_predictor(bundle, accept_any_film), study, question, out))


@app.command(rich_help_panel="Use a bundle")
def predict(
    bundle: BundleFolder,
    image: Image = None,
    clinical: Clinical = None,
    note: Note = None,
    view: View = None,
    study_id: StudyId = None,
    accept_any_film: AnyFilm = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Predict one study from any subset of image, clinical features and note."""
    from cxr_mm.inference import load_predictor

    study = _study(image, clinical, note, view, study_id)
    prediction = load_predictor(bundle, accept_any_film).predict(study)
    print(prediction.model_dump_json(indent=2) if as_json else _told(prediction))


def _study(
    image: Path | None,
    clinical: list[str] | None,
    note: str | None,
    view: str | None,
    study_id: str | None,
) -> Study:
    """What was given, as a study."""
    from cxr_mm.data.radiograph import read_radiograph

    film = read_radiograph(image) if image else None
    return Study(
        study_id=study_id or (image.name if image else uuid.uuid4().hex),
        image=film.pixels if film else None,
        clinical=_pairs(clinical or [], "--clinical", "age=63"),
        note=note,
        view=view or (film.view if film else None),
        warnings=film.warnings if film else (),
        quality=film.quality if film else {},
    )


def _pairs(texts: list[str], option: str, example: str) -> dict[str, str]:
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


def _told(prediction: Prediction) -> str:
    mark = "SYNTHETIC DATA. " if prediction.synthetic else ""
    lines = [f"warning: {text}" for text in prediction.warnings]
    lines.append(f"{prediction.model}, from {', '.join(prediction.modalities)}")
    for found in prediction.findings:
        cut = "" if found.threshold is None else f" (threshold {found.threshold:.1%})"
        answer = "positive" if found.positive else "negative"
        if found.certainty == "uncertain":
            answer = f"uncertain, {answer}"
        lines.append(f"  {found.title}: {found.probability:.1%} {answer}{cut}")
    if any(f.certainty == "uncertain" for f in prediction.findings):
        lines.append(f"uncertain: at {prediction.coverage:.0%} coverage no answer is ruled out")
    return "\n".join([*lines, mark + prediction.notice])


@app.command(rich_help_panel="Use a bundle")
def score(
    bundle: BundleFolder,
    manifest: ManifestFile,
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    accept_any_film: AnyFilm = False,
) -> None:
    """Predict many studies; bad rows are listed beside the output, the rest done."""
    from cxr_mm.inference import load_predictor
    from cxr_mm.scoring import score as run

    done = run(load_predictor(bundle, accept_any_film), manifest, out)
    print(f"{done.predicted} studies predicted: {out}")
    if done.bad:
        print(f"{len(done.bad)} bad rows: {out.with_suffix('.bad.json')}")


@app.command("evaluate-on", rich_help_panel="Use a bundle")
def evaluate_on(
    bundle: BundleFolder,
    manifest: ManifestFile,
    out: Annotated[Path, typer.Option(help="Folder for metrics, plots and predictions.")],
    recalibrate: Annotated[
        Path | None, typer.Option(help="Folder for a new bundle, recalibrated on these studies.")
    ] = None,
    accept_any_film: AnyFilm = False,
) -> None:
    """Evaluate a bundle at another centre, on a manifest CSV with finding columns."""
    from cxr_mm.evaluation.outside import SUMMARY_FILE
    from cxr_mm.evaluation.outside import evaluate_on as run
    from cxr_mm.inference import load_predictor
    from cxr_mm.params import EvaluateParams

    predictor = load_predictor(bundle, accept_any_film)
    folder = run(predictor, manifest, out, EvaluateParams(), recalibrate)
    print((folder / SUMMARY_FILE).read_text(encoding="utf-8"), end="")


@app.command(rich_help_panel="Data")
def tasks() -> None:
    """List the shipped tasks and whether their data is found."""
    from cxr_mm.data.tasks import shipped_tasks
    from cxr_mm.doctor import describe_task

    for name in shipped_tasks():
        print(describe_task(name, data_root()))


@app.command(rich_help_panel="Data")
def fetch(task: TaskName) -> None:
    """Download the public original of a task's data below the data root."""
    from cxr_mm.data.fetch import fetch as run
    from cxr_mm.data.tasks import load_task

    print(run(load_task(task), data_root()))


@app.command(rich_help_panel="Data")
def synthesise(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    studies: Annotated[int, typer.Option(min=1)] = 200,
    seed: Annotated[int, typer.Option()] = 1,
    dial: Annotated[
        list[str] | None,
        typer.Option(help="Drift as NAME=VALUE (see docs/synthetic.md); may be repeated."),
    ] = None,
) -> None:
    """Write synthetic studies as a manifest CSV with films and masks."""
    from pydantic import ValidationError

    from cxr_mm.data.sources.synthetic import SynthesisSpec
    from cxr_mm.data.sources.synthetic import synthesise as run

    given = _pairs(dial or [], "--dial", "exposure=1.3")
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


@app.command(rich_help_panel="This machine")
def doctor(
    speed: Annotated[bool, typer.Option(help="Measure fp32 against bf16.")] = True,
) -> None:
    """Say what this machine has, and what to do about what is missing."""
    from cxr_mm.doctor import examine

    print("\n".join(examine(speed)))


@app.command(rich_help_panel="This machine")
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


@app.command(rich_help_panel="This machine")
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Entry point; a CxrError is one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for chatty in ("httpx", "timm"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        app()
    except CxrError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("error: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
