"""Markdown: tables and figures as text."""

from collections.abc import Iterable, Sequence
from typing import Any

NONE = "–"
SMALLEST_P = 0.001


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; all columns after the first are numbers, and stand to the right."""
    lines = [_row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
    return "\n".join([*lines, *(_row([_cell(cell) for cell in row]) for row in rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: object) -> str:
    return " ".join(str(cell).split()).replace("|", "\\|")


def plain(text: str) -> str:
    """Text from outside on one line, in which no Markdown reader finds emphasis, code or HTML."""
    words = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "*<`" else letter for letter in words)


def bullets(texts: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {text}" for text in texts)


def number(value: float | None, form: str = ".3f") -> str:
    """A figure, or a dash where there is none."""
    return NONE if value is None else f"{value:{form}}"


def with_interval(figure: dict[str, Any], form: str = ".3f") -> str:
    """`0.913 [0.880, 0.941]`; a dash where it is not defined."""
    if figure["value"] is None:
        return NONE
    if not figure.get("ci95"):
        return f"{figure['value']:{form}}"
    low, high = figure["ci95"]
    return f"{figure['value']:{form}} [{low:{form}}, {high:{form}}]"


def p_value(p: float | None) -> str:
    """`= 0.034`, or `< 0.001`."""
    if p is None:
        return NONE
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"= {p:.3f}"
