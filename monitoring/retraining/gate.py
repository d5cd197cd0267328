"""Gate: may a challenger take the champion's place?

All figures must be no worse, so that asking several needs no correction; being better somewhere,
or worse in a small subgroup, is claimed only after one (Holm, Scand J Stat 1979; 6:65).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxr_mm.evaluation.intervals import LEVEL, holm
from cxr_mm.params import EvaluateParams
from monitoring.retraining.changes import Outcome
from monitoring.retraining.comparison import EVERYBODY, Line, Margins, Sample, State, compared

FROZEN, NEWEST = "frozen test", "newest"
REJECTING: tuple[State, ...] = ("worse", "not shown")


@dataclass(frozen=True)
class Judgement:
    """What the gate says.

    Args:
        outcome: `better`, `no worse` or `rejected`.
        reasons: why, in words.
        lines: every comparison.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    lines: tuple[Line, ...]


def judge(
    samples: Sequence[Sample],
    findings: Sequence[str],
    params: EvaluateParams,
    margins: Margins,
    drifted: Collection[str] = (),
) -> Judgement:
    """Judge a challenger.

    It is rejected where it is not shown to be no worse on all studies of a sample, or in a subgroup
    that is large enough to show it, or where a smaller subgroup shows that it is worse. It is
    better where its AUC is higher on the newest studies, all of them or a subgroup that drifted.

    Args:
        samples: the frozen test and the newest studies.
        findings: their names.
        params: resamples, seed, bins, and how small a subgroup may be.
        margins: by how much it may be worse.
        drifted: traits by which monitoring saw drift.

    Raises:
        InputError: as `compared`.
    """
    lines = [
        line
        for sample in samples
        for finding in findings
        for line in compared(sample, finding, params, margins)
    ]
    lines = _worse_small_groups(lines)
    lines, better = _better(lines, drifted)
    failed = [line for line in lines if line.state in REJECTING or _unproven(line)]
    if failed:
        return Judgement("rejected", tuple(map(_why, failed)), tuple(lines))
    if better:
        reasons = [f"{line.name} is higher: {line.said}" for line in better]
        return Judgement("better", tuple(reasons), tuple(lines))
    reason = "it is no worse, and the newest studies do not show that it is better"
    return Judgement("no worse", (reason,), tuple(lines))


def _unproven(line: Line) -> bool:
    """Too few studies are no excuse where all of them are taken together."""
    return line.group == EVERYBODY and line.state == "too few"


def _why(line: Line) -> str:
    words = {
        "worse": "is worse",
        "not shown": f"may be worse by more than {line.margin:g}",
        "too few": "cannot be shown to be no worse from so few studies",
    }
    return f"{line.name} {words[line.state]}: {line.said}"


def _worse_small_groups(lines: Sequence[Line]) -> list[Line]:
    """Subgroups too small to be shown no worse may still show that they are worse."""
    small = [
        i
        for i, line in enumerate(lines)
        if line.group != EVERYBODY and line.state == "too few" and np.isfinite(line.p)
    ]
    judged = list(lines)
    for i, p in zip(small, holm([lines[i].p for i in small]), strict=True):
        difference = lines[i].difference
        assert difference is not None
        worse = p < 1 - LEVEL and difference.value < 0
        judged[i] = replace(lines[i], p_holm=p, state="worse" if worse else "too few")
    return judged


def _better(lines: Sequence[Line], drifted: Collection[str]) -> tuple[list[Line], list[Line]]:
    """The lines, and those of them that show a higher AUC where it was asked for."""
    asked = [
        i
        for i, line in enumerate(lines)
        if line.sample == NEWEST
        and line.metric == "auc"
        and np.isfinite(line.p)
        and (line.group == EVERYBODY or line.group.split(":")[0] in drifted)
    ]
    judged = list(lines)
    for i, p in zip(asked, holm([lines[i].p for i in asked]), strict=True):
        judged[i] = replace(lines[i], p_holm=p)
    return judged, [judged[i] for i in asked if _is_higher(judged[i])]


def _is_higher(line: Line) -> bool:
    limits = line.difference.interval if line.difference else None
    return limits is not None and limits[0] > 0 and line.p_holm < 1 - LEVEL
