"""Plots: the curves as PNG, drawn with matplotlib's object interface and Agg (no global state).

Colours are those of Okabe and Ito (2008), distinguishable with any colour vision; line styles
repeat the distinction.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binomtest

from cxr_mm.core.files import atomic_directory
from cxr_mm.core.prediction import NOTICE
from cxr_mm.core.task import Finding, Task
from cxr_mm.core.types import AVAILABLE, LEVEL
from cxr_mm.evaluation.metrics import Floats, Scored, equal_mass_bins
from cxr_mm.evaluation.report.text import with_interval
from cxr_mm.evaluation.subgroups import CROSSED
from cxr_mm.evaluation.subsets import (
    likeliest_classes,
    scored_of,
    subset_order,
    subset_rows,
)

MOST_POINTS = 400
"""Points of a curve at most; more cannot be seen and make the tables heavy."""


def curve_tables(task: Task, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Name of the plot → its table.

    `roc`: subset, finding, fpr, tpr, threshold. `precision_recall`: subset, finding, recall,
    precision, threshold. `reliability`: subset, finding, predicted, observed, low, high, studies.
    `confusion`: one row per labelled study of `available`, actual and predicted in words.
    """
    found: dict[str, list[pd.DataFrame]] = {"roc": [], "precision_recall": [], "reliability": []}
    for subset in subset_order(task):
        rows = subset_rows(table, subset)
        for name in task.finding_names:
            scored, _ = scored_of(rows, name)
            if not 0 < scored.n_positive < len(scored):
                continue
            for kind, curve in (
                ("roc", roc(scored)),
                ("precision_recall", precision_recall(scored)),
                ("reliability", reliability(scored)),
            ):
                curve.insert(0, "finding", name)
                curve.insert(0, "subset", subset)
                found[kind].append(curve)
    tables = {kind: pd.concat(parts) for kind, parts in found.items() if parts}
    return {**tables, "confusion": confusion(task, subset_rows(table, AVAILABLE))}


def roc(scored: Scored) -> pd.DataFrame:
    """False and true positive rate at each threshold, from (0, 0) to (1, 1)."""
    found, called, thresholds = _above(scored)
    curve = pd.DataFrame(
        {
            "fpr": (called - found) / (len(scored) - scored.n_positive),
            "tpr": found / scored.n_positive,
            "threshold": thresholds,
        }
    )
    return _thinned(curve, curve["fpr"].to_numpy(), curve["tpr"].to_numpy())


def precision_recall(scored: Scored) -> pd.DataFrame:
    """Recall and precision at each threshold; the first precision is that of the highest score."""
    found, called, thresholds = _above(scored)
    precision = found / np.maximum(called, 1)
    precision[0] = precision[1]
    recall = found / scored.n_positive
    curve = pd.DataFrame({"recall": recall, "precision": precision, "threshold": thresholds})
    return _thinned(curve, recall, precision)


def reliability(scored: Scored) -> pd.DataFrame:
    """Mean probability, share of positives and its Wilson limits in each bin of equal mass."""
    which = equal_mass_bins(scored.probabilities)
    filled = np.unique(which)
    n = np.array([(which == b).sum() for b in filled])
    positives = np.array([int(scored.labels[which == b].sum()) for b in filled])
    limits = [
        binomtest(k, size).proportion_ci(LEVEL, method="wilson")
        for k, size in zip(positives, n, strict=True)
    ]
    return pd.DataFrame(
        {
            "predicted": [scored.probabilities[which == b].mean() for b in filled],
            "observed": positives / n,
            "low": [limit.low for limit in limits],
            "high": [limit.high for limit in limits],
            "studies": n,
        }
    )


def confusion(task: Task, rows: pd.DataFrame) -> pd.DataFrame:
    """One row per labelled study (and finding, in a multilabel task): actual and predicted."""
    if task.problem == "multiclass":
        names = np.array([f.title for f in task.findings], dtype=object)
        actual, predicted, _ = likeliest_classes(task, rows)
        return pd.DataFrame({"actual": names[actual], "predicted": names[predicted]})
    parts = []
    for finding in task.findings:
        scored, _ = scored_of(rows, finding.name)
        words = np.array([f"{finding.title}: no", f"{finding.title}: yes"], dtype=object)
        actual, predicted = scored.labels.astype(int), scored.positives.astype(int)
        parts.append(pd.DataFrame({"actual": words[actual], "predicted": words[predicted]}))
    return pd.concat(parts, ignore_index=True)


def _above(scored: Scored) -> tuple[Floats, Floats, Floats]:
    """Positives and studies at or above each distinct threshold, from above the highest down."""
    order = np.argsort(-scored.probabilities, kind="stable")
    scores = scored.probabilities[order]
    last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])
    found = np.r_[0.0, np.cumsum(scored.labels[order])[last]]
    return found, np.r_[0.0, last + 1.0], np.r_[np.nan, scores[last]]


def _thinned(curve: pd.DataFrame, x: Floats, y: Floats) -> pd.DataFrame:
    """Keep the corners of a curve, and of these at most MOST_POINTS."""
    corner = np.ones(len(x), dtype=bool)
    before, after = np.diff(x)[:-1] * np.diff(y)[1:], np.diff(x)[1:] * np.diff(y)[:-1]
    corner[1:-1] = ~np.isclose(before, after, rtol=0, atol=1e-12)
    points: NDArray[np.intp] = np.flatnonzero(corner)
    if len(points) > MOST_POINTS:
        points = points[np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).astype(int))]
    return curve.iloc[points].round(6)


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


def write_plots(task: Task, table: pd.DataFrame, metrics: dict[str, Any], folder: Path) -> None:
    """Write every curve of predictions; `metrics` as `measure_table` gives them."""
    tables = curve_tables(task, table)
    save_plots(tables, draw_plots(task, metrics, tables), folder)


def draw_plots(
    task: Task, metrics: dict[str, Any], tables: dict[str, pd.DataFrame]
) -> dict[str, Figure]:
    """Name of the plot → its drawing; `tables` as `curve_tables` gives them."""
    return {
        "roc": draw_roc(task, metrics, tables, [AVAILABLE]),
        "roc_subsets": draw_roc(task, metrics, tables, subset_order(task)),
        "precision_recall": draw_precision_recall(task, metrics, tables),
        "reliability": draw_reliability(task, metrics, tables),
        "confusion": draw_confusion(task, metrics),
    }


def save_plots(
    tables: Mapping[str, pd.DataFrame], drawings: Mapping[str, Figure], folder: Path
) -> None:
    """Write tables as CSV (for DVC's plots), drawings as PNG; the folder is whole or as it was."""
    with atomic_directory(folder) as aside:
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
            curve, measured = _curve(tables.get("roc"), metrics, subset, finding.name)
            if curve.empty:
                continue
            colour, style = LOOKS[subset]
            words = f"{_figures(measured, 'auc', 'AUC')}, {_sizes(measured)}"
            label = f"{subset}: {words}" if len(names) > 1 else words
            # The main subset is often hidden by that of all modalities: draw it thicker.
            thick = 2.8 if subset == AVAILABLE and len(names) > 1 else 1.6
            ax.plot(curve["fpr"], curve["tpr"], color=colour, ls=style, lw=thick, label=label)
            if len(names) == 1:
                _operating_point(ax, measured)
        x, y = "False positive rate (1 − specificity", "True positive rate (sensitivity"
        _finish(ax, finding, f"{x}, share)", f"{y}, share)")
    return figure


def draw_precision_recall(
    task: Task, metrics: dict[str, Any], tables: dict[str, pd.DataFrame]
) -> Figure:
    """Precision against recall of each finding on `available`, beside the share of positives."""
    figure, axes = _figure(task, "Precision-recall", len(task.findings))
    for finding, ax in zip(task.findings, axes, strict=True):
        table = tables.get("precision_recall")
        curve, measured = _curve(table, metrics, AVAILABLE, finding.name)
        if not curve.empty:
            label = f"{_figures(measured, 'average_precision', 'AP')}, {_sizes(measured)}"
            share = measured["positives"] / measured["n"]
            line = {"color": BLUE, "lw": 1.6, "drawstyle": "steps-pre", "label": label}
            ax.plot(curve["recall"], curve["precision"], **line)
            ax.axhline(share, color=GREY, lw=0.8, ls=":", label=f"share of positives {share:.2f}")
        _finish(ax, finding, "Recall (sensitivity, share)", "Precision (PPV, share)")
    return figure


def draw_reliability(
    task: Task, metrics: dict[str, Any], tables: dict[str, pd.DataFrame]
) -> Figure:
    """Share of positives against mean probability on `available`; bars are 95 % limits."""
    figure, axes = _figure(task, "Reliability", len(task.findings))
    style = {"color": BLUE, "marker": "o", "ms": 4, "lw": 1.4, "elinewidth": 0.9, "capsize": 2}
    for finding, ax in zip(task.findings, axes, strict=True):
        curve, measured = _curve(tables.get("reliability"), metrics, AVAILABLE, finding.name)
        ax.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":", label="ideal")
        if not curve.empty:
            label = f"{_figures(measured, 'ece', 'ECE')}\n{_figures(measured, 'brier', 'Brier')}"
            label += f"\n{_sizes(measured)}, {len(curve)} bins"
            bars = np.abs(curve[["low", "high"]].to_numpy().T - curve["observed"].to_numpy())
            ax.errorbar(curve["predicted"], curve["observed"], yerr=bars, label=label, **style)
        x, y = "Predicted probability (mean of bin)", "Observed share of positives (bars: 95 %)"
        _finish(ax, finding, x, y, 2)
    return figure


def draw_confusion(task: Task, metrics: dict[str, Any]) -> Figure:
    """Studies of `available` by truth and prediction: one table of classes, or one per finding."""
    measured = metrics["subsets"][AVAILABLE]
    if task.problem == "multiclass":
        figure, axes = _figure(task, "Confusion (likeliest class)", 1)
        names = [f.title for f in task.findings]
        counts = [list(row.values()) for row in measured["confusion"].values()]
        _cells(axes[0], np.array(counts), names)
        return figure
    figure, axes = _figure(task, "Confusion (at the operating point)", len(task.findings))
    for finding, ax in zip(task.findings, axes, strict=True):
        cells = measured["findings"][finding.name]["confusion"]
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


def _operating_point(ax: Any, measured: dict[str, Any]) -> None:
    sensitivity, specificity = measured["sensitivity"]["value"], measured["specificity"]["value"]
    label = f"operating point: sensitivity {sensitivity:.2f}, specificity {specificity:.2f}"
    ax.plot(1 - specificity, sensitivity, "o", color=VERMILION, ms=6, label=label)


def _curve(
    table: pd.DataFrame | None, metrics: dict[str, Any], subset: str, finding: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Points of a curve, empty where it is not defined, and the metrics it belongs to."""
    if table is None:
        return pd.DataFrame(), {}
    points = table[(table["subset"] == subset) & (table["finding"] == finding)]
    return points, metrics["subsets"].get(subset, {}).get("findings", {}).get(finding, {})


def _figures(measured: dict[str, Any], metric: str, name: str) -> str:
    """`AUC 0.91 [0.88, 0.94]`."""
    undefined = "" if measured[metric]["ci95"] else " [not defined]"
    return f"{name} {with_interval(measured[metric])}{undefined}"


def _sizes(measured: dict[str, Any]) -> str:
    return f"n = {measured['n']} ({measured['positives']} positive)"


PANELS = {"auc": "AUC", "fnr": "False negative rate", "fpr": "False positive rate"}
Line = tuple[str, str, dict[str, Any]]
"""Characteristic, group, its figures."""
ROW, WIDTH, HEADS = 0.27, 11.0, 0.9
"""Inches: of a group, of the figure, of a panel's title and axis."""


def draw_subgroups(task: Task, subgroups: dict[str, Any]) -> Figure:
    """One row of panels per finding; groups too few to measure are grey and say so."""
    rows = {name: _subgroup_rows(subgroups, name) for name in task.finding_names}
    sizes = [max(len(lines), 1) * ROW + HEADS for lines in rows.values()]
    figure = blank_figure(task, "Subgroups", WIDTH, sum(sizes))
    grid = figure.subplots(len(rows), len(PANELS), squeeze=False, height_ratios=sizes)
    flagged = {
        (flag["finding"], flag["metric"], flag["by"], group)
        for flag in subgroups["flags"]
        for group in (flag["higher"], flag["lower"])
    }
    for (finding, lines), axes in zip(rows.items(), grid, strict=True):
        title = next(f.title for f in task.findings if f.name == finding)
        for ax, metric in zip(axes, PANELS, strict=True):
            _draw(ax, lines, metric, {key[2:] for key in flagged if key[:2] == (finding, metric)})
            name = f"{title}: {PANELS[metric]}" if metric == "auc" else PANELS[metric]
            ax.set_title(name, fontsize=9, parse_math=False)
            ax.tick_params(labelleft=metric == "auc")
    return figure


def _subgroup_rows(subgroups: dict[str, Any], finding: str) -> list[Line]:
    return [
        (by, group, figures)
        for by, measured in subgroups["findings"][finding].items()
        if CROSSED not in by
        for group, figures in measured["groups"].items()
    ]


def _draw(ax: Any, lines: list[Line], metric: str, flagged: set[tuple[str, str]]) -> None:
    labels = []
    for at, (by, group, figures) in enumerate(lines):
        labels.append(f"{by}: {group} (n = {figures['n']}, {figures['positives']} positive)")
        figure = figures[metric]
        if figure["value"] is None:
            ax.text(0.5, at, "too few", ha="center", va="center", fontsize=7, color=GREY)
            continue
        colour = VERMILION if (by, group) in flagged else BLUE
        if figure["ci95"]:
            ax.plot(figure["ci95"], [at, at], color=colour, lw=1.4)
        ax.plot(figure["value"], at, "o", color=colour, ms=4.5)
    if not lines:
        ax.text(0.5, 0, "no characteristic is known", ha="center", fontsize=8, color=GREY)
    for at in range(1, len(lines)):
        if lines[at][0] != lines[at - 1][0]:
            ax.axhline(at - 0.5, color=GREY, lw=0.5)
    ax.set(xlim=(-0.03, 1.03), ylim=(max(len(lines), 1) - 0.5, -0.5))
    ax.set_yticks(range(len(labels)), labels, fontsize=7, parse_math=False)
    for label, (_, _, figures) in zip(ax.get_yticklabels(), lines, strict=True):
        label.set_color(GREY if "few" in figures else "black")
    ax.tick_params(axis="x", labelsize=7)
    ax.grid(axis="x", alpha=0.25, lw=0.5)
