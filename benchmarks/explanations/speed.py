"""Part `explain`: how long each explanation takes, beside the stock call of its library."""

import gc
import io
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import shap
import torch
from lime.lime_image import LimeImageExplainer
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score as r_squared

from benchmarks.harness.outputs import after
from benchmarks.harness.parts import Row
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import load_task
from cxr_mm.data.manifest import load_manifest
from cxr_mm.explain.attribution import Attribution, Target
from cxr_mm.explain.cases import Studies
from cxr_mm.explain.estimators import RIDGE, closeness
from cxr_mm.explain.faithfulness.measure import CELLS
from cxr_mm.explain.faithfulness.metrics import deletion_and_insertion
from cxr_mm.explain.games import ImageGame, grid, superpixels
from cxr_mm.explain.methods import DEFAULTS, METHODS, SUPERPIXELS, Ask
from cxr_mm.explain.study import explaining
from cxr_mm.explain.subject import Subject, modality_shares
from cxr_mm.imaging.tensors import normalise
from cxr_mm.models.bundle import Batch, Bundle, load_bundle

STUDIES = 20
Found = TypeVar("Found")


@dataclass(frozen=True)
class Bench:
    """A task's bundle, and studies that have every modality."""

    task: str
    bundle: Bundle
    subjects: list[Subject]
    target: Target

    def row(self, row: str, metric: str, value: float, n: int, **targets: Any) -> Row:
        """A row of the table."""
        facts = {"task": self.task, "row": row, "metric": metric, "n": n, "seed": 0}
        return Row(value=round(value, 4), **facts, **targets)

    def at_most(
        self, row: str, metric: str, values: list[float], must: float, aim: float | None = None
    ) -> Row:
        """A row of a median that should be small."""
        bounds = {"must": must, "aim": aim, "ceiling": True}
        return self.row(row, metric, statistics.median(values), len(values), **bounds)


def open_bench(paths: TaskPaths) -> Bench:
    """The bench of a task whose bundle exists."""
    task, bundle = load_task(paths.task), load_bundle(paths.bundle)
    studies = Studies(load_manifest(paths, task), paths.pixels)
    heldout = pd.read_parquet(paths.heldout)
    everything = heldout[heldout["subset"] == "image+tabular+note"].drop_duplicates("study_id")
    chosen = everything.sample(STUDIES, random_state=0)["study_id"].astype(str)
    subjects = [Subject(bundle, studies.study(s, with_image=True)) for s in chosen]
    return Bench(task.name, bundle, subjects, Target(task.finding_names[-1]))


def fresh(subject: Subject) -> Subject:
    """The subject with nothing remembered."""
    return Subject(subject.bundle, subject.study)


def timed(run: Callable[[], Found]) -> tuple[float, Found]:
    """How long a call takes (s), and what it gives."""
    started = time.perf_counter()
    found = run()
    return time.perf_counter() - started, found


def seconds(run: Callable[[], Any]) -> float:
    """How long a call takes (s)."""
    return timed(run)[0]


BLUR = "blur(128,128)"
"""The masker of shap's image example."""


class Stock:
    """A study's image as the libraries take it: uint8 (S, S, 3), and a function of many of them."""

    def __init__(self, subject: Subject, target: Target) -> None:
        assert subject.batch.image is not None
        self.subject, self.column = subject, subject.column(target)
        grey = ((subject.batch.image[0, 0].numpy() + 1) * 127.5).round().astype(np.uint8)
        self.image = np.repeat(grey[:, :, None], 3, axis=2)
        self.held = subject.encoded.embeddings
        self._lime: Any = None
        self._shap: Any = None

    @torch.inference_mode()
    def logits(self, embedded: NDArray[Any]) -> NDArray[np.float64]:
        """Images (K, S, S, 3) → logits (K, 1), all else as it is."""
        bundle, batch = self.subject.bundle, self.subject.batch
        images = normalise(np.asarray(embedded)[..., 0].astype(np.uint8))
        mask = batch.mask.expand(len(images), -1)
        shown = {m: e.expand(len(images), -1) for m, e in self.held.items()}
        shown |= bundle.embeddings(Batch(mask=mask, image=images))
        logits = bundle.logits(shown, mask)[:, self.column]
        found: NDArray[np.float64] = logits.double().numpy()[:, None]
        return found

    def lime(self) -> None:
        """Run lime_image with its defaults."""
        explainer = LimeImageExplainer(random_state=0)
        with redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            self._lime = explainer.explain_instance(
                self.image, self.logits, labels=(0,), top_labels=None
            )

    def lime_map(self) -> NDArray[np.float32]:
        """What `lime` found, as a map (S, S)."""
        painted: NDArray[np.float32] = self._weights()[self._lime.segments].astype(np.float32)
        return painted

    def lime_fit(self, unseen: int) -> float:
        """R² of lime's linear model on coalitions that it was not fitted on."""
        segments, weights = self._lime.segments, self._weights()
        stored = uniform(unseen, len(weights), 99)
        fill = np.zeros_like(self.image)
        for segment in np.unique(segments):
            inside = segments == segment
            fill[inside] = self.image[inside].mean(axis=0)
        images = np.where(stored[:, segments][..., None], self.image, fill)
        true = np.concatenate([self.logits(images[k : k + 10]) for k in range(0, unseen, 10)])[:, 0]
        return float(r_squared(true, self._lime.intercept[0] + stored @ weights))

    def shap(self) -> None:
        """Run shap's partition explainer with its image masker and defaults."""
        masker = shap.maskers.Image(BLUR, self.image.shape)
        self._shap = shap.Explainer(self.logits, masker)(self.image[None], silent=True)

    def shap_map(self) -> NDArray[np.float32]:
        """What `shap` found, as a map (S, S)."""
        values = np.asarray(self._shap.values, dtype=np.float32).reshape(*self.image.shape)
        summed: NDArray[np.float32] = values.sum(axis=2)
        return summed

    def _weights(self) -> NDArray[np.float64]:
        weights = np.zeros(int(self._lime.segments.max()) + 1)
        for segment, weight in self._lime.local_exp[0]:
            weights[segment] = weight
        return weights


def uniform(samples: int, players: int, seed: int) -> NDArray[np.bool_]:
    """Coalitions (samples, players) as lime draws them: each player in with even chance."""
    return np.random.default_rng(seed).integers(0, 2, (samples, players)).astype(bool)


STOCK_STUDIES = 3
FRESH = 100
"""Coalitions on which the fit of a linear model is measured, none of which it was fitted on."""
INSERTION = "insertion, logits above random order"
FIT = "R² on fresh coalitions"


def against_stock(bench: Bench) -> list[Row]:
    """Rows of LIME and SHAP of the image: speed, insertion, and fit of the linear model of LIME."""
    lime = pd.DataFrame(_lime(bench, known) for known in bench.subjects[:STOCK_STUDIES]).median()
    shap = pd.DataFrame(_shap(bench, known) for known in bench.subjects[:STOCK_STUDIES]).median()
    rows, n = [], STOCK_STUDIES
    for title, library, found in (("LIME", "lime_image", lime), ("SHAP", "shap", shap)):
        row, stock = f"{title} of the image", round(found["stock"], 4)
        rows += [
            bench.row(row, f"times as fast as {library}", found["faster"], n, must=4.0, aim=10.0),
            bench.row(row, INSERTION, found["own"], n, reference=stock),
        ]
    beside, same = "LIME of the image, beside 1,000 uniform coalitions", round(lime["same_fit"], 4)
    return [
        *rows,
        bench.row(beside, FIT, lime["own_fit"], n, reference=same),
        bench.row("lime_image, of its own fill by mean grey", FIT, lime["stock_fit"], n),
    ]


def _lime(bench: Bench, known: Subject) -> dict[str, float]:
    """One study explained by both: speed, insertion, and R² on fresh coalitions."""
    stock = Stock(known, bench.target)
    faster, subject, result = _raced(bench, known, "lime_image", stock.lime)
    return {
        "faster": faster,
        **_insertions(subject, bench.target, result.values, stock.lime_map()),
        **_fits(subject, bench.target, result),
        "stock_fit": stock.lime_fit(FRESH),
    }


def _shap(bench: Bench, known: Subject) -> dict[str, float]:
    stock = Stock(known, bench.target)
    faster, subject, result = _raced(bench, known, "shap_image", stock.shap)
    inserted = _insertions(subject, bench.target, result.values, stock.shap_map())
    return {"faster": faster, **inserted}


def _raced(
    bench: Bench, known: Subject, method: str, stock: Callable[[], None]
) -> tuple[float, Subject, Attribution]:
    """How many times as fast as the stock call, and the answer with its subject."""
    taken, subject = seconds(stock), fresh(known)
    own, result = timed(partial(METHODS[method].explain, subject, bench.target, Ask()))
    return taken / own, subject, result


def _insertions(
    subject: Subject, target: Target, own: NDArray[np.float32], stock: NDArray[np.float32]
) -> dict[str, float]:
    """Of two maps (S, S): how much sooner than in random order the logit rises."""
    game = ImageGame(subject, target, grid(subject, CELLS))
    return {
        name: deletion_and_insertion(game, game.scores(values), 0)["insertion"]
        for name, values in (("own", own), ("stock", stock))
    }


def _fits(subject: Subject, target: Target, answered: Attribution) -> dict[str, float]:
    """R² of LIME's linear model, and of one through 1,000 coalitions drawn as lime draws them."""
    game = ImageGame(subject, target, superpixels(subject, SUPERPIXELS))
    unseen, many = uniform(FRESH, game.count, 99), uniform(1000, game.count, 0)
    true = game.values(unseen)
    same = Ridge(alpha=RIDGE).fit(many, game.values(many), sample_weight=closeness(many))
    own = answered.extra["intercept"] + unseen @ game.scores(answered.values)
    return {"own_fit": r_squared(true, own), "same_fit": r_squared(true, same.predict(unseen))}


TASKS = ("synthetic", "covid")
IN_A_ROW = 1000


def measure() -> list[Row]:
    """Rows of every task that has a bundle; says which are left out."""
    found = after("fuse", "explain", TASKS)
    return [row for paths in found for row in measure_task(open_bench(paths))]


def measure_task(bench: Bench) -> list[Row]:
    """All rows of one task."""
    _ = bench.bundle.quick  # measured once a process
    for method in METHODS.values():  # what libraries compile when first called is compiled
        method.explain(fresh(bench.subjects[0]), bench.target, Ask())
    return [*_quick(bench), *_panel(bench), *against_stock(bench), *_in_a_row(bench)]


def _quick(bench: Bench) -> list[Row]:
    """Shares with SHAP of features; Grad-CAM as a multiple of the forward pass; SHAP of notes."""
    together, cams, notes = [], [], []
    cam, words = METHODS["grad_cam"].explain, METHODS["shap_note"].explain
    for known in bench.subjects:
        subject = fresh(known)
        ask = subject, bench.target, Ask()
        together.append(seconds(partial(_shares_and_features, subject, bench.target)))
        forward = statistics.median(seconds(partial(_forward, subject)) for _ in range(3))
        own = statistics.median(seconds(partial(cam, *ask)) for _ in range(3))
        cams.append(own / forward)
        notes.append(seconds(partial(words, *ask)))
    shares = "shares of modalities and SHAP of clinical features"
    return [
        bench.at_most(shares, "seconds", together, 0.3, 0.1),
        bench.at_most("Grad-CAM", "time against one forward pass", cams, 3.0, 2.5),
        bench.at_most("SHAP of the note", "seconds", notes, 5.0, 2.0),
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
    """What the page shows by default, from the study on; and its first part."""
    first, whole = [], []
    for known in bench.subjects:
        started = time.perf_counter()
        parts = explaining(fresh(known), bench.target, DEFAULTS)
        next(parts)
        first.append(time.perf_counter() - started)
        for _ in parts:
            pass
        whole.append(time.perf_counter() - started)
    every = "panel, whole: shares, Grad-CAM, SHAP of features and note"
    return [
        bench.at_most("panel, first part", "seconds", first, 1.0),
        bench.at_most(every, "seconds", whole, 6.0, 3.0),
    ]


def _in_a_row(bench: Bench) -> list[Row]:
    """Memory after a thousand explanations as a multiple of that after a hundred."""
    subject, early = bench.subjects[0], 0
    for number in range(IN_A_ROW):
        again = fresh(subject)
        METHODS["grad_cam"].explain(again, bench.target, Ask())
        METHODS["shap_tabular"].explain(again, bench.target, Ask())
        if number == IN_A_ROW // 10:
            gc.collect()
            early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    late = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    modules = bench.bundle.classifier.modules()
    hooks = sum(len(m._forward_hooks) + len(m._backward_hooks) for m in modules)
    name, most = f"{IN_A_ROW:,} explanations in a row", {"n": IN_A_ROW, "ceiling": True}
    return [
        bench.row(name, "peak memory against 100", late / early, must=1.05, **most),
        bench.row(name, "hooks left", hooks, must=0, **most),
    ]
