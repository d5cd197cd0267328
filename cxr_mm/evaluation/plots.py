"""Plots: the curves as PNG, drawn with matplotlib's object interface and Agg (no global state).

Colours are those of Okabe and Ito (2008), told apart with any colour vision; line styles repeat
what colours say.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxr_mm.contracts.prediction import NOTICE
from cxr_mm.contracts.task import Finding, Task
from cxr_mm.evaluation.curves import curve_tables
from cxr_mm.evaluation.subsets import AVAILABLE, subset_order
from cxr_mm.files import folder_written_aside
from cxr_mm.params import EvaluateParams

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#666666"
LOOKS = {
    AVAILABLE: ("#000000", "-"),
    "image": (BLUE, "--"),
    "tabular": ("#E69F00", "--"),
    "note": ("#009E73", "--"),
    "image+tabular": ("#56B4E9", "-."),
    "image+note": ("#CC79A7", "-."),
    "tabular+note": ("#999999", "-."),
    "image+tabular+note": (VERMILION, "-"),
}
PANEL, LABELS, LINE, FOOT = 4.6, 0.4, 0.22, 0.36
"""Inches: side of a panel, its title and labels, line of the title, room for the notice."""
TITLE_LETTERS = 11
"""Letters of the title in an inch."""
MOST_COLUMNS, DPI = 3, 110
RATE = (-0.02, 1.02)


def write_plots(
    task: Task,
    table: pd.DataFrame,
    metrics: dict[str, Any],
    params: EvaluateParams,
    folder: Path,
    besides: Mapping[str, Figure] = MappingProxyType({}),
) -> None:
    """Write every curve as CSV, for DVC's plots, and as PNG; the folder is whole or as it was.

    Args:
        task: the question.
        table: predictions.
        metrics: what `measure_table` says of them.
        params: bins.
        folder: to write.
        besides: further drawings by name.
    """
    tables = curve_tables(task, table, params.ece_bins)
    drawings = {
        "roc": draw_roc(task, metrics, tables, [AVAILABLE]),
        "roc_subsets": draw_roc(task, metrics, tables, subset_order(task)),
        "precision_recall": draw_precision_recall(task, metrics, tables),
        "reliability": draw_reliability(task, metrics, tables),
        "confusion": draw_confusion(task, metrics),
        **besides,
    }
    with folder_written_aside(folder) as aside:
        for name, curve in tables.items():
            curve.to_csv(aside / f"{name}.csv", index=False)
        for name, figure in drawings.items():
            figure.savefig(aside / f"{name}.png", dpi=DPI, metadata={"Software": None})


def draw_roc(
    task: Task, metrics: dict[str, Any], tables: dict[str, pd.DataFrame], names: list[str]
) -> Figure:
    """ROC of each finding, one line per subset; of a single subset the operating point too."""
    figure, axes = _figure(task, "ROC", len(task.findings))
    for finding, ax in zip(task.findings, axes, strict=True):
        ax.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
        for subset in names:
            curve = _rows(tables.get("roc"), subset, finding.name)
            if curve.empty:
                continue
            colour, style = LOOKS[subset]
            told = metrics["subsets"][subset]["findings"][finding.name]
            words = f"{_figures(told, 'auc', 'AUC')}, {_sizes(told)}"
            label = f"{subset}: {words}" if len(names) > 1 else words
            # The main subset often lies under that of all modalities: let it show at the edges.
            thick = 2.8 if subset == AVAILABLE and len(names) > 1 else 1.6
            ax.plot(curve["fpr"], curve["tpr"], color=colour, ls=style, lw=thick, label=label)
            if len(names) == 1:
                _operating_point(ax, told)
        _finish(
            ax,
            finding,
            "False positive rate (1 − specificity, share)",
            "True positive rate (sensitivity, share)",
        )
    return figure


def draw_precision_recall(
    task: Task, metrics: dict[str, Any], tables: dict[str, pd.DataFrame]
) -> Figure:
    """Precision against recall of each finding on `available`, beside the share of positives."""
    figure, axes = _figure(task, "Precision-recall", len(task.findings))
    for finding, ax in zip(task.findings, axes, strict=True):
        curve = _rows(tables.get("precision_recall"), AVAILABLE, finding.name)
        if not curve.empty:
            told = metrics["subsets"][AVAILABLE]["findings"][finding.name]
            label = f"{_figures(told, 'average_precision', 'AP')}, {_sizes(told)}"
            share = told["positives"] / told["n"]
            ax.plot(
                curve["recall"],
                curve["precision"],
                color=BLUE,
                lw=1.6,
                drawstyle="steps-pre",
                label=label,
            )
            ax.axhline(share, color=GREY, lw=0.8, ls=":", label=f"share of positives {share:.2f}")
        _finish(ax, finding, "Recall (sensitivity, share)", "Precision (PPV, share)")
    return figure


def draw_reliability(
    task: Task, metrics: dict[str, Any], tables: dict[str, pd.DataFrame]
) -> Figure:
    """Share of positives against mean probability on `available`; bars are 95 % limits."""
    figure, axes = _figure(task, "Reliability", len(task.findings))
    for finding, ax in zip(task.findings, axes, strict=True):
        curve = _rows(tables.get("reliability"), AVAILABLE, finding.name)
        ax.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":", label="ideal")
        if not curve.empty:
            told = metrics["subsets"][AVAILABLE]["findings"][finding.name]
            label = f"{_figures(told, 'ece', 'ECE')}\n{_figures(told, 'brier', 'Brier')}"
            bars = np.abs(curve[["low", "high"]].to_numpy().T - curve["observed"].to_numpy())
            ax.errorbar(
                curve["predicted"],
                curve["observed"],
                yerr=bars,
                color=BLUE,
                marker="o",
                ms=4,
                lw=1.4,
                elinewidth=0.9,
                capsize=2,
                label=f"{label}\n{_sizes(told)}, {len(curve)} bins",
            )
        _finish(
            ax,
            finding,
            "Predicted probability (mean of bin)",
            "Observed share of positives (bars: 95 %)",
            2,
        )
    return figure


def draw_confusion(task: Task, metrics: dict[str, Any]) -> Figure:
    """Studies of `available` by truth and prediction: one table of classes, or one per finding."""
    told = metrics["subsets"][AVAILABLE]
    if task.problem == "multiclass":
        figure, axes = _figure(task, "Confusion (likeliest class)", 1)
        names = [f.title for f in task.findings]
        counts = [list(row.values()) for row in told["confusion"].values()]
        _cells(axes[0], np.array(counts), names)
        return figure
    figure, axes = _figure(task, "Confusion (at the operating point)", len(task.findings))
    for finding, ax in zip(task.findings, axes, strict=True):
        cells = told["findings"][finding.name]["confusion"]
        counts = [[cells["tn"], cells["fp"]], [cells["fn"], cells["tp"]]]
        _cells(ax, np.array(counts), ["no", "yes"])
        ax.set_title(finding.title, fontsize=10, parse_math=False)
    return figure


def _cells(ax: Any, counts: np.ndarray[Any, Any], names: list[str]) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        colour = "white" if shares[i, j] > 0.55 else "black"
        ax.text(
            j, i, f"{count}\n{shares[i, j]:.0%}", ha="center", va="center", color=colour, fontsize=9
        )
    ax.set_xticks(range(len(names)), names, fontsize=8, rotation=20 if len(names) > 2 else 0)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_xlabel("Predicted (studies, share of row)", fontsize=9)
    ax.set_ylabel("Actual", fontsize=9)


def _figure(task: Task, kind: str, panels: int) -> tuple[Figure, list[Any]]:
    """A canvas with a panel per finding, the title, the notice and, where due, the mark."""
    columns = min(panels, MOST_COLUMNS)
    rows = -(-panels // columns)
    width = PANEL * columns + 0.6
    figure = blank_figure(task, kind, width, (PANEL + LABELS) * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.set_axis_off()
    return figure, axes[:panels]


def blank_figure(task: Task, kind: str, width: float, content: float) -> Figure:
    """A canvas `width` by `content` inches, and above and below the title, mark and notice."""
    title = textwrap.wrap(f"{task.title}: {kind}", int(width * TITLE_LETTERS))
    above = LINE * (len(title) + task.synthetic) + 0.1
    height = content + above + FOOT
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    # Constrained layout lets square panels run into a title of two lines; keep room by hand.
    figure.set_layout_engine(
        "constrained", rect=(0, FOOT / height, 1, (height - above - FOOT) / height)
    )
    _head_and_foot(figure, title, task.synthetic)
    return figure


def _head_and_foot(figure: Figure, title: list[str], synthetic: bool) -> None:
    height = figure.get_size_inches()[1]
    top = 1 - 0.06 / height
    if synthetic:
        figure.text(
            0.5, top, "SYNTHETIC DATA", ha="center", va="top", color=VERMILION, weight="bold"
        )
        top -= LINE / height
    text = "\n".join(title)
    figure.text(0.5, top, text, ha="center", va="top", fontsize=11, parse_math=False)
    notice = f"{NOTICE}\n[…] 95 % intervals, bootstrap over patients"
    figure.text(0.5, 0.05 / height, notice, ha="center", va="bottom", fontsize=6, color=GREY)


def _finish(ax: Any, finding: Finding, x: str, y: str, corner: int = 4) -> None:
    ax.set(xlim=RATE, ylim=RATE, aspect="equal")
    ax.set_title(finding.title, fontsize=10, parse_math=False)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.25, lw=0.5)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc=corner, fontsize=6.5, framealpha=0.9)
    else:
        ax.text(0.5, 0.5, "not defined: one class only", ha="center", fontsize=9, color=GREY)


def _operating_point(ax: Any, told: dict[str, Any]) -> None:
    sensitivity, specificity = told["sensitivity"]["value"], told["specificity"]["value"]
    label = f"operating point: sensitivity {sensitivity:.2f}, specificity {specificity:.2f}"
    ax.plot(1 - specificity, sensitivity, "o", color=VERMILION, ms=6, label=label)


def _rows(table: pd.DataFrame | None, subset: str, finding: str) -> pd.DataFrame:
    if table is None:
        return pd.DataFrame()
    return table[(table["subset"] == subset) & (table["finding"] == finding)]


def _figures(told: dict[str, Any], metric: str, name: str) -> str:
    """`AUC 0.91 [0.88, 0.94]`."""
    figure = told[metric]
    limits = figure["ci95"]
    interval = f" [{limits[0]:.3f}, {limits[1]:.3f}]" if limits else " [not defined]"
    return f"{name} {figure['value']:.3f}{interval}"


def _sizes(told: dict[str, Any]) -> str:
    return f"n = {told['n']} ({told['positives']} positive)"
