"""Part `explain`: how long each explanation takes, beside the stock call of its library."""

import gc
import resource
import statistics
import time
from functools import partial

import torch

from benchmarks.explanations.against_stock import Bench, against_stock, fresh, open_bench, seconds
from benchmarks.harness.outputs import after
from benchmarks.harness.parts import Row
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.methods import DEFAULTS, METHODS, Ask
from cxr_mm.explain.study import explaining
from cxr_mm.explain.subject import Subject, modality_shares

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
