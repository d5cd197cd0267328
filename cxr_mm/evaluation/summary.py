"""Summary: metrics.json as a short table that fits a terminal."""

import textwrap
from collections.abc import Sequence
from typing import Any

from cxr_mm.evaluation.subsets import AVAILABLE

COLUMNS = {
    "accuracy": "acc",
    "sensitivity": "sens",
    "specificity": "spec",
    "brier": "Brier",
    "ece": "ECE",
}

MOST_FLAGS, WIDTH = 5, 100


def summary(metrics: dict[str, Any], flags: Sequence[dict[str, str]] = ()) -> str:
    """One line per subset of modalities, then per finding where there are several; fusion gain.

    Args:
        metrics: what metrics.json holds.
        flags: what flags.json holds; the first few are told, the rest counted.
    """
    lines = [_headline(metrics), _row("shown", "n", "AUC [95 % CI]", *COLUMNS.values())]
    for name, subset in metrics["subsets"].items():
        lines.append(_line(name, subset["n"], headline(subset)))
    findings = metrics["subsets"][AVAILABLE]["findings"]
    if len(findings) > 1:
        lines.append(f"by finding, {AVAILABLE}:")
        lines += [_line(f"  {name}", f["n"], f) for name, f in findings.items()]
    if gain := metrics.get("fusion_gain"):
        lines.append(_gain(gain))
    lines += _flags(flags)
    return "\n".join(lines)


def _flags(flags: Sequence[dict[str, str]]) -> list[str]:
    lines = []
    for flag in flags[:MOST_FLAGS]:
        text = f"flag ({flag['kind']}): {flag['text']}"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ")
    more = len(flags) - MOST_FLAGS
    if more > 0:
        lines.append(f"{more} more flags in model_card.md")
    return lines


def headline(subset: dict[str, Any]) -> dict[str, Any]:
    """The figures that stand for a subset: of its only finding, or the mean over findings."""
    figures: dict[str, Any] = subset.get("macro") or next(iter(subset["findings"].values()))
    return figures


def _headline(metrics: dict[str, Any]) -> str:
    mark = " [SYNTHETIC DATA]" if metrics.get("synthetic") else ""
    return (
        f"{metrics['task']}: {metrics['title']}{mark}, {metrics['n_studies']} held-out studies "
        f"of {metrics['n_patients']} patients"
    )


def _line(name: str, n: int, figures: dict[str, Any]) -> str:
    cells = [_number(figures[metric]["value"]) for metric in COLUMNS]
    return _row(name, str(n), _with_interval(figures["auc"]), *cells)


def _row(name: str, n: str, auc: str, *cells: str) -> str:
    return f"{name:<20}{n:>6}  {auc:<22}" + "".join(f"{cell:>7}" for cell in cells)


def _gain(gain: dict[str, Any]) -> str:
    figures = gain.get("macro") or next(iter(gain.get("findings", {}).values()), None)
    if figures is None:
        return f"fusion gain: {gain['reason']}"
    change = _with_interval(figures["difference"], "+.3f")
    return (
        f"fusion gain: AUC {change} over the best single ({figures['best_single']}), "
        f"{gain['studies']} complete studies"
    )


def _with_interval(figure: dict[str, Any], form: str = ".3f") -> str:
    if not figure["ci95"]:
        return _number(figure["value"], form)
    low, high = figure["ci95"]
    return f"{figure['value']:{form}} [{low:{form}}, {high:{form}}]"


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else f"{value:{form}}"
