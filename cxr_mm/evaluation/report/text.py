"""Text of reports: figures and p values as text, and the summaries for a terminal."""

import textwrap
from collections.abc import Sequence
from typing import Any

from cxr_mm.core.templates import render
from cxr_mm.evaluation.metrics import SMALLEST

MOST_FLAGS, WIDTH = 5, 100
MISSING = "–"
"""What a missing figure is in Markdown."""
SMALLEST_P = 0.001

LINES = {
    "calibration_in_the_large": ("calibration in the large", "+.3f", 0.0),
    "calibration_intercept": ("calibration intercept", "+.2f", 0.0),
    "calibration_slope": ("calibration slope", ".2f", 1.0),
    "auc": ("AUC", ".3f", None),
}
"""Title, format and ideal of the figures of the transportability summary."""
GAIN_METRICS = {
    **LINES,
    "ece": ("ECE", ".3f", None),
    "brier": ("Brier", ".3f", None),
    "sensitivity": ("sensitivity", ".3f", None),
    "specificity": ("specificity", ".3f", None),
}
"""The same of the recalibration gain."""
WRONG = {
    "calibration_in_the_large": ("probabilities are too low", "probabilities are too high"),
    "calibration_intercept": ("probabilities are too high", "probabilities are too low"),
    "calibration_slope": ("predictions are too extreme", "predictions are too timid"),
}
"""Interpretation where the whole interval is below the ideal, or above it."""


def headline(subset: dict[str, Any]) -> dict[str, Any]:
    """Headline figures of a subset: of its only finding, or the mean over findings."""
    figures: dict[str, Any] = subset.get("macro") or next(iter(subset["findings"].values()))
    return figures


def plain(text: str) -> str:
    """Untrusted text on one line, escaped: no emphasis, code, HTML or end of a table's cell."""
    words = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "*<`|" else letter for letter in words)


def number(value: float | None, form: str = ".3f", missing: str = MISSING) -> str:
    """A figure, or a dash where it is missing."""
    return missing if value is None else f"{value:{form}}"


def with_interval(figure: dict[str, Any] | None, form: str = ".3f", missing: str = MISSING) -> str:
    """`0.913 [0.880, 0.941]`; a dash where it is not defined, or was not measured."""
    if figure is None:
        return missing
    if figure["value"] is None or not figure.get("ci95"):
        return number(figure["value"], form, missing)
    low, high = figure["ci95"]
    return f"{figure['value']:{form}} [{low:{form}}, {high:{form}}]"


def p_value(p: float | None) -> str:
    """`= 0.034`, or `< 0.001`."""
    if p is None:
        return MISSING
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"= {p:.3f}"


def miscalibration(metric: str, figure: dict[str, Any]) -> str:
    """What is wrong where the interval excludes the ideal; the reason of a missing figure."""
    ideal = LINES[metric][2]
    if ideal is None or not figure["ci95"]:
        return str(figure.get("reason", ""))
    low, high = figure["ci95"]
    too_low, too_high = WRONG[metric]
    return too_low if high < ideal else too_high if low > ideal else ""


def summary(metrics: dict[str, Any], flags: Sequence[dict[str, str]] = ()) -> str:
    """Text for a terminal: the figures of each subset of modalities, fusion gain and flags.

    Args:
        metrics: content of metrics.json.
        flags: content of flags.json; the first few are printed, the others counted.
    """
    return _terminal("summary.txt", metrics, flags)


def external_summary(metrics: dict[str, Any]) -> str:
    """Text for a terminal of metrics.json of `evaluate-on`."""
    return _terminal("external_summary.txt", metrics, ())


def _terminal(template: str, metrics: dict[str, Any], flags: Sequence[dict[str, str]]) -> str:
    text = render(
        template,
        metrics=metrics,
        flags=flags,
        most_flags=MOST_FLAGS,
        lines=LINES,
        gain_metrics=GAIN_METRICS,
        smallest=SMALLEST,
        headline=headline,
        number=number,
        interval=with_interval,
        miscalibration=miscalibration,
        in_words=_in_words,
        wrap=_wrap,
    )
    return text.rstrip("\n")


def _wrap(text: str, first: str = "", others: str = "  ") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=others)


def _in_words(update: dict[str, Any]) -> str:
    """`new intercept and slope: 0.512 × logit - 0.30`."""
    if update["method"] == "none":
        return "left as it is"
    sign = "-" if update["intercept"] < 0 else "+"
    shift = f"logit {sign} {abs(update['intercept']):.2f}"
    if update["method"] == "intercept":
        return f"new intercept: {shift}"
    return f"new intercept and slope: {update['slope']:.3f} × {shift}"
