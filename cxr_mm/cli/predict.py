"""Commands that use a bundle: predict one study or many, and evaluate at an external site."""

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
    UseHeader,
    View,
    Workers,
    header_use,
    study_of,
)
from cxr_mm.core.allocator import without_collection
from cxr_mm.core.errors import InputError
from cxr_mm.core.prediction import Prediction, percent
from cxr_mm.inference.engine import EngineName, EngineSettings, run_of

commands = typer.Typer()
PANEL = "Use a bundle"
BundleFolder = Annotated[Path, typer.Option("--bundle", help="Folder of the bundle.")]
ManifestFile = Annotated[
    str,
    typer.Option(
        "--manifest",
        help="CSV, one row per study; or Parquet or WebDataset shards, by path or URL.",
    ),
]
Studies = Annotated[
    str,
    typer.Option(
        "--manifest",
        help="CSV, one row per study; a folder of DICOM files; or Parquet or WebDataset shards, "
        "by path or URL.",
    ),
]


@commands.command(rich_help_panel=PANEL)
def predict(
    bundle: BundleFolder,
    image: Image = None,
    clinical: Clinical = None,
    note: Note = None,
    view: View = None,
    study_id: StudyId = None,
    use_header: UseHeader = False,
    accept_any_image: AnyImage = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Predict one study from any subset of image, clinical features and note."""
    with without_collection():
        from cxr_mm.inference.predictor import load_predictor

        predictor = load_predictor(bundle, accept_any_image)
        study = study_of(predictor.bundle.task, image, clinical, note, view, study_id, use_header)
        prediction = predictor.predict(study)
    print(prediction.model_dump_json(indent=2) if as_json else describe(prediction))


def describe(prediction: Prediction) -> str:
    """A prediction in plain lines, warnings first."""
    mark = "SYNTHETIC DATA. " if prediction.synthetic else ""
    lines = [f"warning: {text}" for text in prediction.warnings]
    lines.append(f"{prediction.model}, from {', '.join(prediction.modalities)}")
    for found in prediction.findings:
        lines.append(f"  {found.title}: {percent(found.probability)} {found.in_words}")
    if any(f.certainty == "uncertain" for f in prediction.findings):
        lines.append(f"uncertain: at {prediction.coverage:.0%} coverage no answer is ruled out")
    return "\n".join([*lines, mark + prediction.notice])


@commands.command(rich_help_panel=PANEL)
def score(
    bundle: BundleFolder,
    manifest: Studies,
    out: Annotated[
        str,
        typer.Option(
            help="File to write, .csv or .parquet; or a folder or its URL, by which a run goes on."
        ),
    ],
    use_header: UseHeader = False,
    accept_any_image: AnyImage = False,
    engine: Engine = "local",
    address: Address = "local",
    workers: Workers = 0,
    price_per_hour: Annotated[
        float | None,
        typer.Option(min=0, help="Of a processor, for the cost of 1,000 studies; with a folder."),
    ] = None,
) -> None:
    """Predict many studies; bad rows are listed beside the output."""
    from cxr_mm.core.shards.store import place_of

    place, source = place_of(out), place_of(manifest)
    if isinstance(place, Path) and place.suffix:
        check_one_process(place, engine)
        score_into_file(bundle, source, place, use_header, accept_any_image)
        return
    from cxr_mm.inference.shards import score_folder, scoring_run

    run = scoring_run(bundle, source, header_use(use_header), accept_any_image)
    settings = EngineSettings(name=engine, address=address, workers=workers)
    report, cost = score_folder(run, place, settings, price_per_hour)
    print(
        "\n".join(
            [*report.lines(), *filter(None, [cost.line()]), f"predictions: {out}/predictions"]
        )
    )
    if report.failed:
        print(f"those not answered, each with its reason: {out}/failed")


@commands.command(rich_help_panel=PANEL)
def worklist(
    bundle: BundleFolder,
    manifest: Studies,
    out: Annotated[str, typer.Option(help="Folder or its URL, by which a run goes on.")],
    finding: Annotated[
        str, typer.Option(help="Order by its probability; by any finding if not given.")
    ] = "",
    positive: Annotated[bool, typer.Option("--positive", help="Only with a positive one.")] = False,
    uncertain: Annotated[
        bool, typer.Option("--uncertain", help="Only with an uncertain one.")
    ] = False,
    most: Annotated[int, typer.Option(min=1, help="Studies in the list.")] = 1000,
    use_header: UseHeader = False,
    accept_any_image: AnyImage = False,
    engine: Engine = "local",
    address: Address = "local",
    workers: Workers = 0,
) -> None:
    """Predict many studies, as score does, and list the most suspicious first."""
    from cxr_mm.core.shards.store import place_of
    from cxr_mm.inference.shards import open_shards, score_folder, scoring_run
    from cxr_mm.inference.worklist import (
        WORKLIST_FILE,
        Wanted,
        check_finding,
        most_suspicious,
        written,
    )
    from cxr_mm.models.registry import read_index

    task, place = read_index(bundle).task, place_of(out)
    check_finding(task, finding)
    run = scoring_run(bundle, place_of(manifest), header_use(use_header), accept_any_image)
    settings = EngineSettings(name=engine, address=address, workers=workers)
    report, cost = score_folder(run, place, settings)
    shards = open_shards(run, place)
    listed = most_suspicious(shards, task, Wanted(finding, positive, uncertain), most)
    shards.out.write(WORKLIST_FILE, written(listed, task).encode())
    lines = [*report.lines(), *filter(None, [cost.line()])]
    print("\n".join([*lines, f"the first {len(listed):,}: {shards.out.path(WORKLIST_FILE)}"]))


def check_one_process(out: Path, engine: EngineName) -> None:
    """Check that an engine writes files.

    Raises:
        InputError: it writes folders alone.
    """
    if engine != "local":
        raise InputError(
            "is a file, which one process writes",
            field=f"--out {out}",
            remedy=f"Name a folder for --engine {engine}, or leave --engine out",
        )


def score_into_file(
    bundle: Path, source: Path | str, out: Path, header: bool, any_image: bool
) -> None:
    """Predict many studies into one file."""
    from cxr_mm.inference.predictor import load_predictor
    from cxr_mm.inference.score import check_out
    from cxr_mm.inference.score import score as run

    check_out(out, source)  # before the bundle is loaded
    tally = run(load_predictor(bundle, any_image), source, out, header_use(header))
    print("\n".join([*tally.lines(), f"predictions: {out}"]))
    if tally.bad:
        print(f"those not answered, each with its reason: {out.with_suffix('.bad.json')}")


@commands.command("evaluate-on", rich_help_panel=PANEL)
def evaluate_on(
    bundle: BundleFolder,
    manifest: ManifestFile,
    out: Annotated[Path, typer.Option(help="Folder for metrics, plots and predictions.")],
    recalibrate: Annotated[
        Path | None, typer.Option(help="Folder for a new bundle, recalibrated on these studies.")
    ] = None,
    include_trained: Annotated[
        bool, typer.Option("--include-trained", help="Keep studies that the bundle has seen.")
    ] = False,
    use_header: UseHeader = False,
    accept_any_image: AnyImage = False,
    engine: Engine = "local",
    address: Address = "local",
    workers: Workers = 0,
) -> None:
    """Evaluate a bundle at an external site, on a table with finding columns."""
    from cxr_mm.core.config import EvaluateParams
    from cxr_mm.core.shards.store import place_of
    from cxr_mm.evaluation.external.validate import SUMMARY_FILE
    from cxr_mm.evaluation.external.validate import evaluate_on as run
    from cxr_mm.inference.predictor import load_predictor

    predictor = load_predictor(bundle, accept_any_image)
    header = header_use(use_header)
    params = EvaluateParams()
    there = run_of(EngineSettings(name=engine, address=address, workers=workers))
    folder = run(
        predictor, place_of(manifest), out, params, recalibrate, include_trained, header, there
    )
    print((folder / SUMMARY_FILE).read_text(encoding="utf-8"), end="")
