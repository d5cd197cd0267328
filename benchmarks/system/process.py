"""Part `process`: whole commands in cold processes, with freed memory kept and without."""

import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.harness.parts import Row
from benchmarks.harness.process import Usage, run_process
from benchmarks.harness.runs import SmallTask, make_small_task
from benchmarks.harness.timing import ratio
from cxr_mm.core.allocator import SWITCH
from cxr_mm.core.config import PARAMS_FILE
from cxr_mm.core.files import write_text

STUDIES, SIZE, ROUNDS = 96, 224, 3
EVERY = "process: every figure"
MUST = 3.0
"""Seconds of processor time that a cold prediction may take."""
TRAINING = "training"
LEARNS: dict[str, Any] = {"backbone": "small_cnn", "weights": "none", "trainable": "all"}
METRICS = "wall seconds", "user seconds", "system seconds", "peak memory, MiB", "page faults"
"""In the order of `Usage`."""
PREDICTION = "one prediction from image, clinical features and note"
WAYS = {"freed memory kept": "1", "glibc as it is": "0"}
"""Setting of the allocator → value of its environment variable."""


def measure() -> list[Row]:
    """Rows of every command: costs of both settings, and their ratio (without / with)."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, words in commands(make_project(folder)).items():
            print(f"process: {what}", flush=True)
            rows += _rows(what, alternating(words, folder))
    return rows


def make_project(folder: Path) -> SmallTask:
    """A project of the task `synthetic`, and of the same task with a network that learns."""
    small = make_small_task(folder, size=SIZE, studies=STUDIES)
    shutil.copy(PARAMS_FILE, folder)
    task = small.task.model_dump(mode="json", exclude_none=True)
    learning = {**task, "name": TRAINING, "params": {"train_image": {**LEARNS, "epochs": 3}}}
    for each in (task, learning):
        write_text(folder / "tasks" / f"{each['name']}.yaml", yaml.safe_dump(each))
    for stage in ("ingest", "split"):
        run_process("cxr_mm", stage, TRAINING, folder=folder)
    return small


def commands(small: SmallTask) -> dict[str, list[object]]:
    """What is measured → words of `cxr-mm`, run in the project's folder."""
    bundle = ["--bundle", small.paths.bundle, "--accept-any-image"]
    many = [*bundle, "--manifest", small.source / "manifest.csv", "--out"]
    studies = pd.read_csv(small.source / "manifest.csv", dtype=str, keep_default_na=False)
    study = studies[(studies["image_path"] != "") & (studies["note"] != "")].iloc[0]
    given = [f"--clinical={n}={study[n]}" for n in small.task.clinical_names if study[n]]
    image = ["--image", small.source / study["image_path"]]
    one = [*bundle, *image, *given, "--note", study["note"]]
    return {
        "train_image, small network": ["train-image", TRAINING],
        "embed": ["embed", small.task.name],
        f"score {STUDIES} studies": ["score", *many, small.paths.root / "scored.parquet"],
        f"evaluate-on {STUDIES} studies": [
            "evaluate-on",
            *many,
            small.paths.root / "site",
            "--include-trained",
        ],
        "explain one study": ["explain", *one, "--out", small.paths.root / "explanation"],
        PREDICTION: ["predict", *one],
    }


def alternating(words: list[object], folder: Path) -> dict[str, list[Usage]]:
    """Costs of a command under each setting, in turn; a run before them does not count."""
    run_process("cxr_mm", *words, folder=folder)
    found: dict[str, list[Usage]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way, value in WAYS.items():
            usage = run_process("cxr_mm", *words, folder=folder, environment={SWITCH: value})
            found[way].append(usage)
    return found


def _rows(what: str, found: dict[str, list[Usage]]) -> list[Row]:
    facts = {"task": f"synthetic, {SIZE} px", "n": ROUNDS}
    kept, plain = found.values()
    figures = {
        way: map(statistics.median, zip(*usages, strict=True)) for way, usages in found.items()
    }
    figures["without / with"] = map(ratio, zip(*plain, strict=True), zip(*kept, strict=True))
    rows = [
        Row(table=EVERY, row=f"{what}: {way}", metric=metric, value=value, **facts)
        for way, values in figures.items()
        for metric, value in zip(METRICS, values, strict=True)
    ]
    if what == PREDICTION:
        spent = statistics.median(usage.user + usage.system for usage in kept)
        bound = {"must": MUST, "ceiling": True}
        rows.append(
            Row(row=what, metric="seconds of processor time", value=spent, **facts, **bound)
        )
    return rows
