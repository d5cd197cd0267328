"""Losses: what a source or a task's rules leave out, counted by reason, with examples."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_mm.core.types import plural

IDS = 20
"""Study ids named per reason in a report."""
CELLS = 5
"""Different cells quoted per reason."""
NAMED = 3
"""Study ids named per reason in a message."""
REASONS = 10
"""Reasons listed in a message, the most frequent first."""
LONGEST_CELL = 40


@dataclass(frozen=True)
class Dropped:
    """A study that was dropped, the reason, and the cell at fault (empty where none is)."""

    study_id: str
    reason: str
    found: str = ""


Cleared = Counter[tuple[str, str, str]]
"""(manifest column, reason, cell as it was) → number of values that were set to missing."""


def dropped_rows(
    studies: "pd.Series[str]", reasons: "pd.Series[Any]", found: "pd.Series[str] | None" = None
) -> list[Dropped]:
    """Ids and reasons of the rows that have a reason."""
    cells = [""] * len(studies) if found is None else found
    rows = zip(studies, reasons, cells, strict=True)
    return [Dropped(str(s), str(why), cell) for s, why, cell in rows if not pd.isna(why)]


def by_reason(dropped: Iterable[Dropped], expected: Mapping[str, str]) -> dict[str, Any]:
    """Count dropped studies for a report.

    Args:
        dropped: the studies.
        expected: first word of a reason → what the task expects in the column at fault.

    Returns:
        `count`, and `reasons`: reason → `count`, `examples` (ids), and where cells are at fault
        `found` (the most frequent ones) and `expected`.
    """
    studies: dict[str, list[Dropped]] = {}
    for one in dropped:
        studies.setdefault(one.reason, []).append(one)
    reasons = {reason: _reason(reason, studies[reason], expected) for reason in sorted(studies)}
    return {"count": sum(map(len, studies.values())), "reasons": reasons}


def _reason(reason: str, studies: list[Dropped], expected: Mapping[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "count": len(studies),
        "examples": [one.study_id for one in studies[:IDS]],
    }
    if cells := Counter(one.found for one in studies if one.found):
        entry["found"] = _most_frequent(cells)
    if what := expected.get(reason.split()[0]):
        entry["expected"] = what
    return entry


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Add up two results of `by_reason` of studies without cells at fault."""
    both: dict[str, dict[str, Any]] = {}
    for reason, entry in (*first["reasons"].items(), *second["reasons"].items()):
        before = both.get(reason, {"count": 0, "examples": []})
        both[reason] = entry | {
            "count": before["count"] + entry["count"],
            "examples": [*before["examples"], *entry["examples"]][:IDS],
        }
    return {"count": first["count"] + second["count"], "reasons": dict(sorted(both.items()))}


def by_column(
    cleared: Cleared, given: Mapping[str, int], expected: Mapping[str, str]
) -> dict[str, Any]:
    """Count cleared values for a report.

    Args:
        cleared: the values.
        given: column → values that are left.
        expected: column → what the task expects there.

    Returns:
        Column → `cleared`, `given` (before), `expected`, and `reasons`: reason → `count` and
        `examples`, the most frequent cells.
    """
    columns: dict[str, dict[str, Counter[str]]] = {}
    for (column, reason, cell), count in sorted(cleared.items()):
        columns.setdefault(column, {}).setdefault(reason, Counter())[cell] += count
    report = {}
    for column, reasons in columns.items():
        number = sum(cells.total() for cells in reasons.values())
        report[column] = {
            "cleared": number,
            "given": number + given.get(column, 0),
            "expected": expected.get(column, ""),
            "reasons": {
                reason: {"count": cells.total(), "examples": _most_frequent(cells)}
                for reason, cells in reasons.items()
            },
        }
    return report


def _most_frequent(cells: Counter[str]) -> list[str]:
    return [cell[:LONGEST_CELL] for cell, _ in cells.most_common(CELLS) if cell]


def describe_reasons(counted: Mapping[str, Any]) -> list[str]:
    """Describe what `by_reason` counted: a line for each reason, the most frequent first."""
    reasons = sorted(counted["reasons"].items(), key=lambda item: -item[1]["count"])
    lines = []
    for reason, entry in reasons[:REASONS]:
        line = f"{entry['count']} {reason} (as {', '.join(entry['examples'][:NAMED])}"
        lines.append(f"{line}{_against(entry.get('found', ()), entry.get('expected', ''))})")
    if more := reasons[REASONS:]:
        number = sum(entry["count"] for _, entry in more)
        lines.append(f"{number} for {len(more)} further reasons")
    return lines


def describe_columns(columns: Mapping[str, Any]) -> list[str]:
    """Describe what `by_column` counted: a line for each column."""
    return [describe_column(column, entry) for column, entry in columns.items()]


def describe_column(column: str, entry: Mapping[str, Any]) -> str:
    """Describe the values of one column that were cleared."""
    reasons = ", ".join(f"{n['count']} {reason}" for reason, n in entry["reasons"].items())
    cells = [cell for n in entry["reasons"].values() for cell in n["examples"]][:CELLS]
    return (
        f"{entry['cleared']:,} of {plural(entry['given'], 'value')} of {column} ({reasons}"
        f"{_against(cells, entry['expected'])})"
    )


def _against(found: Iterable[str], expected: str) -> str:
    cells = ", ".join(map(repr, found))
    return (f"; found {cells}" if cells else "") + (f"; expected {expected}" if expected else "")


def kind_of(path: Path) -> str:
    """Name the kind of a file that is passed over: its suffix in lower case."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if not suffixes:
        return "without a suffix"
    return "".join(suffixes[-2:]) if suffixes[-1] == ".gz" else suffixes[-1]
