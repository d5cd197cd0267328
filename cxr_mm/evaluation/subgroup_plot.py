"""Plot of subgroups: AUC, FNR and FPR of every group with their intervals, side by side."""

from typing import Any

from matplotlib.figure import Figure

from cxr_mm.contracts.task import Task
from cxr_mm.evaluation.plots import BLUE, GREY, VERMILION, blank_figure
from cxr_mm.evaluation.subgroups import CROSSED

PANELS = {"auc": "AUC", "fnr": "False negative rate", "fpr": "False positive rate"}
Line = tuple[str, str, dict[str, Any]]
"""Characteristic, group, its figures."""
ROW, WIDTH, HEADS = 0.27, 11.0, 0.9
"""Inches: of a group, of the figure, of a panel's title and axis."""


def draw_subgroups(task: Task, subgroups: dict[str, Any]) -> Figure:
    """One row of panels per finding; groups too few to measure are grey and say so."""
    rows = {name: _rows(subgroups, name) for name in task.finding_names}
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


def _rows(subgroups: dict[str, Any], finding: str) -> list[Line]:
    return [
        (by, group, figures)
        for by, told in subgroups["findings"][finding].items()
        if CROSSED not in by
        for group, figures in told["groups"].items()
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
