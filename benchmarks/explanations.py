"""Part `explain`: how long each explanation takes, beside the stock call of its library.

On held-out studies that have every modality, of the tasks whose bundles `dvc repro` has left.
"""

import gc
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.explain_stock import Stock
from benchmarks.figures import RUNS_VARIABLE
from benchmarks.rounds import device
from benchmarks.rows import Row
from cxr_mm.contracts.explanation import Attribution, Target
from cxr_mm.data.ingest import load_manifest
from cxr_mm.data.tasks import load_task
from cxr_mm.explain.cases import Studies
from cxr_mm.explain.faithfulness.measure import CELLS
from cxr_mm.explain.faithfulness.ranking import deletion_and_insertion
from cxr_mm.explain.games import FilmGame
from cxr_mm.explain.games.film import grid, superpixels
from cxr_mm.explain.lime_fit import LimeFit
from cxr_mm.explain.methods import DEFAULTS, METHODS, SUPERPIXELS, Ask
from cxr_mm.explain.shares import modality_shares
from cxr_mm.explain.study import explaining
from cxr_mm.explain.subject import Subject
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.bundle_files import load_bundle
from cxr_mm.paths import TaskPaths

TABLE, COMMAND = "explain", "make benchmark PART=explain"
TASKS = ("synthetic", "covid")
STUDIES, STOCK_STUDIES, IN_A_ROW = 20, 5, 1000
FRESH = 100
"""Coalitions on which the fit of a LIME model is measured, none of which it was fitted on."""


@dataclass(frozen=True)
class Bench:
    """A task's bundle and studies."""

    task: str
    bundle: Bundle
    subjects: list[Subject]
    target: Target

    def row(self, row: str, metric: str, value: float, n: int, **targets: Any) -> Row:
        return Row(
            table=TABLE,
            task=self.task,
            row=row,
            metric=metric,
            value=round(value, 4),
            n=n,
            seed=0,
            device=device(),
            command=COMMAND,
            **targets,
        )


def measure() -> list[Row]:
    """Rows of every task that has a bundle; says which are left out."""
    rows: list[Row] = []
    for name in TASKS:
        paths = TaskPaths(name, Path(os.environ.get(RUNS_VARIABLE) or "."))
        if paths.bundle.is_dir():
            print(f"explain: {name}", flush=True)
            rows += measure_task(_bench(name, paths))
        else:
            print(f"explain: {name} is left out: run dvc repro fuse@{name}")
    return rows


def _bench(name: str, paths: TaskPaths) -> Bench:
    task, bundle = load_task(name), load_bundle(paths.bundle)
    studies = Studies(load_manifest(paths, task), paths.pixels)
    heldout = pd.read_parquet(paths.heldout)
    everything = heldout[heldout["subset"] == "image+tabular+note"].drop_duplicates("study_id")
    chosen = everything.sample(STUDIES, random_state=0)["study_id"].astype(str)
    subjects = [Subject(bundle, studies.study(s, film=True)) for s in chosen]
    return Bench(name, bundle, subjects, Target(task.finding_names[-1]))


def measure_task(bench: Bench) -> list[Row]:
    """All rows of one task."""
    _ = bench.bundle.quick  # measured once a process
    for method in METHODS.values():  # what libraries compile when first called is compiled
        method.explain(_fresh(bench.subjects[0]), bench.target, Ask())
    return [
        *_quick(bench),
        *_panel(bench),
        *_lime_film(bench),
        *_shap_film(bench),
        *_in_a_row(bench),
    ]


def _fresh(subject: Subject) -> Subject:
    """The subject with nothing remembered."""
    return Subject(subject.bundle, subject.study)


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _quick(bench: Bench) -> list[Row]:
    """Shares with SHAP of features; Grad-CAM as a multiple of the bare forward; SHAP of notes."""
    together, cams, notes = [], [], []
    cam, words = METHODS["grad_cam"].explain, METHODS["shap_note"].explain
    for known in bench.subjects:
        subject = _fresh(known)
        ask = subject, bench.target, Ask()
        together.append(_seconds(partial(_shares_and_features, subject, bench.target)))
        bare = statistics.median(_seconds(partial(_forward, subject)) for _ in range(3))
        own = statistics.median(_seconds(partial(cam, *ask)) for _ in range(3))
        cams.append(own / bare)
        notes.append(_seconds(partial(words, *ask)))
    seconds = {"ceiling": True}
    n = len(bench.subjects)
    return [
        bench.row(
            "shares of modalities and SHAP of clinical features",
            "seconds",
            statistics.median(together),
            n,
            must=0.3,
            aim=0.1,
            **seconds,
        ),
        bench.row(
            "Grad-CAM",
            "time against one bare forward",
            statistics.median(cams),
            n,
            must=3.0,
            aim=2.5,
            **seconds,
        ),
        bench.row(
            "SHAP of the note", "seconds", statistics.median(notes), n, must=5.0, aim=2.0, **seconds
        ),
    ]


def _shares_and_features(subject: Subject, target: Target) -> None:
    modality_shares(subject)
    METHODS["shap_tabular"].explain(subject, target, Ask())


@torch.inference_mode()
def _forward(subject: Subject) -> None:
    encoder, image = subject.bundle.image_encoder, subject.batch.image
    assert encoder is not None
    encoder(image)


def _panel(bench: Bench) -> list[Row]:
    """What the page shows without being asked, from the study on; and its first part."""
    first, whole = [], []
    for known in bench.subjects:
        started = time.perf_counter()
        parts = explaining(_fresh(known), bench.target, DEFAULTS)
        next(parts)
        first.append(time.perf_counter() - started)
        for _ in parts:
            pass
        whole.append(time.perf_counter() - started)
    n, most = len(whole), {"ceiling": True}
    return [
        bench.row("panel, first part", "seconds", statistics.median(first), n, must=1.0, **most),
        bench.row(
            "panel, whole: shares, Grad-CAM, SHAP of features and note",
            "seconds",
            statistics.median(whole),
            n,
            must=6.0,
            aim=3.0,
            **most,
        ),
    ]


def _lime_film(bench: Bench) -> list[Row]:
    """Against `lime_image` with its defaults, and how well each fits coalitions it has not seen."""
    faster, own_fit, stock_fit = [], [], []
    for known in bench.subjects[:STOCK_STUDIES]:
        stock = Stock(known, bench.target)
        taken = _seconds(stock.lime)
        subject = _fresh(known)
        started = time.perf_counter()
        said = METHODS["lime_image"].explain(subject, bench.target, Ask())
        faster.append(taken / (time.perf_counter() - started))
        own_fit.append(_fit(subject, bench.target, said))
        stock_fit.append(stock.lime_fit(FRESH))
    return [
        bench.row(
            "LIME of the film",
            "times as fast as lime_image",
            statistics.median(faster),
            len(faster),
            must=4.0,
            aim=10.0,
        ),
        bench.row(
            "LIME of the film",
            "R² on fresh coalitions",
            statistics.median(own_fit),
            len(faster),
            reference=round(statistics.median(stock_fit), 4),
        ),
    ]


def _fit(subject: Subject, target: Target, said: Attribution) -> float:
    """R² of the linear model on coalitions that it was not fitted on."""
    game = FilmGame(subject, target, superpixels(subject, SUPERPIXELS))
    fit = LimeFit(said.extra["intercept"], game.scores(said.values), said.extra["r2"])
    kept = np.random.default_rng(99).integers(0, 2, (FRESH, game.count)).astype(bool)
    true = game.values(kept)
    return r_squared(true, fit.intercept + kept @ fit.weights)


def r_squared(true: np.ndarray, told: np.ndarray) -> float:
    """Share of the variance that is foretold."""
    return float(1 - ((true - told) ** 2).sum() / ((true - true.mean()) ** 2).sum())


def _shap_film(bench: Bench) -> list[Row]:
    """Against shap's own partition explainer with its image masker and defaults."""
    faster, own, stocks = [], [], []
    for known in bench.subjects[:STOCK_STUDIES]:
        stock = Stock(known, bench.target)
        started = time.perf_counter()
        theirs = stock.shap()
        taken = time.perf_counter() - started
        subject = _fresh(known)
        started = time.perf_counter()
        said = METHODS["shap_image"].explain(subject, bench.target, Ask())
        faster.append(taken / (time.perf_counter() - started))
        game = FilmGame(subject, bench.target, grid(subject, CELLS))
        own.append(deletion_and_insertion(game, game.scores(said.values), 0)["insertion"])
        stocks.append(deletion_and_insertion(game, game.scores(theirs), 0)["insertion"])
    return [
        bench.row(
            "SHAP of the film",
            "times as fast as shap",
            statistics.median(faster),
            len(faster),
            must=4.0,
            aim=10.0,
        ),
        bench.row(
            "SHAP of the film",
            "insertion, logits above random order",
            statistics.median(own),
            len(own),
            reference=round(statistics.median(stocks), 4),
        ),
    ]


def _in_a_row(bench: Bench) -> list[Row]:
    """Memory after a thousand explanations as a multiple of that after a hundred."""
    subject, early = bench.subjects[0], 0
    for number in range(IN_A_ROW):
        fresh = _fresh(subject)
        METHODS["grad_cam"].explain(fresh, bench.target, Ask())
        METHODS["shap_tabular"].explain(fresh, bench.target, Ask())
        if number == IN_A_ROW // 10:
            gc.collect()
            early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    late = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hooks = sum(
        len(module._forward_hooks) + len(module._backward_hooks)
        for module in bench.bundle.classifier.modules()
    )
    return [
        bench.row(
            "1,000 explanations in a row",
            "peak memory against 100",
            late / early,
            IN_A_ROW,
            must=1.05,
            ceiling=True,
        ),
        bench.row(
            "1,000 explanations in a row", "hooks left", hooks, IN_A_ROW, must=0, ceiling=True
        ),
    ]
