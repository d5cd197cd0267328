"""Part `explain`: how long each explanation takes, beside the stock call of its library.

On held-out studies that have every modality, of the tasks whose bundles `dvc repro` has left.
"""

import gc
import resource
import statistics
import time
from functools import partial

import torch

from benchmarks.explanations.against_stock import Bench, against_stock, fresh, open_bench, seconds
from benchmarks.harness.parts import Row
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.methods import DEFAULTS, METHODS, Ask
from cxr_mm.explain.study import explaining
from cxr_mm.explain.subject import Subject, modality_shares

TASKS = ("synthetic", "covid")
IN_A_ROW = 1000


def measure() -> list[Row]:
    """Rows of every task that has a bundle; says which are left out."""
    rows: list[Row] = []
    for name in TASKS:
        if (bench := open_bench(name)) is not None:
            print(f"explain: {name}", flush=True)
            rows += measure_task(bench)
        else:
            print(f"explain: {name} is left out: run dvc repro fuse@{name}")
    return rows


def measure_task(bench: Bench) -> list[Row]:
    """All rows of one task."""
    _ = bench.bundle.quick  # measured once a process
    for method in METHODS.values():  # what libraries compile when first called is compiled
        method.explain(fresh(bench.subjects[0]), bench.target, Ask())
    return [
        *_quick(bench),
        *_panel(bench),
        *against_stock(bench),
        *_in_a_row(bench),
    ]


def _quick(bench: Bench) -> list[Row]:
    """Shares with SHAP of features; Grad-CAM as a multiple of the bare forward; SHAP of notes."""
    together, cams, notes = [], [], []
    cam, words = METHODS["grad_cam"].explain, METHODS["shap_note"].explain
    for known in bench.subjects:
        subject = fresh(known)
        ask = subject, bench.target, Ask()
        together.append(seconds(partial(_shares_and_features, subject, bench.target)))
        raw = statistics.median(seconds(partial(_forward, subject)) for _ in range(3))
        own = statistics.median(seconds(partial(cam, *ask)) for _ in range(3))
        cams.append(own / raw)
        notes.append(seconds(partial(words, *ask)))
    n, most = len(bench.subjects), {"ceiling": True}
    return [
        bench.row(
            "shares of modalities and SHAP of clinical features",
            "seconds",
            statistics.median(together),
            n,
            must=0.3,
            aim=0.1,
            **most,
        ),
        bench.row(
            "Grad-CAM",
            "time against one bare forward",
            statistics.median(cams),
            n,
            must=3.0,
            aim=2.5,
            **most,
        ),
        bench.row(
            "SHAP of the note", "seconds", statistics.median(notes), n, must=5.0, aim=2.0, **most
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
        parts = explaining(fresh(known), bench.target, DEFAULTS)
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
