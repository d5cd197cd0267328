"""Comparison: a challenger and a champion on the very same studies, figure by figure.

Differences are paired and resampled by patient. No worse is non-inferiority by the 95 % interval
of the difference (Piaggio et al., JAMA 2012; 308:2594).
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from cxr_mm import __version__
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import InputError
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.types import Frozen
from cxr_mm.data.additions import additions_fingerprint
from cxr_mm.data.sources.base import files_below
from cxr_mm.evaluation.compare import compare
from cxr_mm.evaluation.metrics import Floats, Scored, counted, expected_calibration_error
from cxr_mm.evaluation.resampling import LEVEL, Estimate, holm, multiplicities
from cxr_mm.evaluation.subsets import Weights, scored_of
from cxr_mm.evaluation.traits import SMALLEST_CLASS, SMALLEST_GROUP
from cxr_mm.models.bundle import Bundle
from monitoring.retraining.change_record import Outcome

EVERYBODY = "all"
State = Literal["no worse", "worse", "not shown", "too few"]


class Margins(Frozen):
    """By how much a challenger may be worse."""

    auc: float = Field(0.02, gt=0, lt=0.5)
    subgroup_auc: float = Field(0.05, gt=0, lt=0.5)
    """Wider, since a subgroup has fewer patients."""
    brier: float = Field(0.02, gt=0, lt=0.5)
    ece: float = Field(0.05, gt=0, lt=0.5)
    """Expected calibration error; wide, since it scatters much in small samples."""


@dataclass(frozen=True)
class Sample:
    """Predictions of both models on studies that neither was trained on.

    Args:
        name: `FROZEN` or `NEWEST`.
        champion, challenger: tables as `compare` takes them; studies that only one has are left
            out.
        traits: by `study_id`, a column for each characteristic that forms subgroups; missing where
            not known.
    """

    name: str
    champion: pd.DataFrame
    challenger: pd.DataFrame
    traits: pd.DataFrame


@dataclass(frozen=True)
class Line:
    """One comparison: challenger minus champion.

    Args:
        sample, group, finding: of what; `group` is `all`, or `trait: level`.
        metric: `auc`, `brier` or `ece`.
        n, patients, positives: studies compared, their patients, studies with the finding.
        margin: by how much it may be worse.
        state: the judgement. `worse`: the whole interval is on the worse side of 0, and beyond the
            margin in part; `not shown`: it may be worse by more than the margin; `too few`: an
            equal model could not be told from a worse one.
        champion, challenger, difference: figures with intervals; None where there is none.
        p: of no difference in AUC; NaN where there is no test.
        p_holm: corrected, where it was asked whether the difference proves anything.
    """

    sample: str
    group: str
    finding: str
    metric: str
    n: int
    patients: int
    positives: int
    margin: float
    state: State = "too few"
    champion: Estimate | None = None
    challenger: Estimate | None = None
    difference: Estimate | None = None
    p: float = np.nan
    p_holm: float = np.nan

    @property
    def name(self) -> str:
        """As reasons name it."""
        group = "" if self.group == EVERYBODY else f", {self.group}"
        return f"{self.metric.upper()} of {self.finding}, {self.sample}{group}"

    @property
    def said(self) -> str:
        """The difference with its interval, in words."""
        limits = self.difference.interval if self.difference else None
        if self.difference is None or limits is None:
            return f"no interval from {self.n} studies of {self.patients} patients"
        low, high = limits
        return f"{self.difference.value:+.3f} ({low:+.3f} to {high:+.3f}, {self.n} studies)"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {
            name: estimate.to_json() if estimate else None
            for name, estimate in (
                ("champion", self.champion),
                ("challenger", self.challenger),
                ("difference", self.difference),
            )
        }
        plain = ("sample", "group", "finding", "metric", "n", "patients", "positives", "margin")
        tests = {n: None if np.isnan(v := getattr(self, n)) else v for n in ("p", "p_holm")}
        return {**{n: getattr(self, n) for n in plain}, **told, **tests, "state": self.state}


@dataclass(frozen=True)
class _Pair:
    """Rows of the same studies, in the same order."""

    sample: str
    champion: pd.DataFrame
    challenger: pd.DataFrame

    def part(self, rows: NDArray[np.bool_]) -> "_Pair":
        """Some of the studies."""
        return _Pair(self.sample, self.champion[rows], self.challenger[rows])


def compared(
    sample: Sample, finding: str, params: EvaluateParams, margins: Margins
) -> Iterator[Line]:
    """All studies by each metric, then the AUC of each subgroup.

    Raises:
        InputError: the two have no study in common, a table lacks a column, or the two differ in
            a label.
    """
    shared = sorted(set(sample.champion["study_id"]) & set(sample.challenger["study_id"]))
    if not shared:
        raise InputError("the two models have no study in common", field=sample.name)
    former, newer = (
        table.set_index("study_id").loc[shared].reset_index()
        for table in (sample.champion, sample.challenger)
    )
    labels = f"label.{finding}"
    if not former[labels].equals(newer[labels]):
        raise InputError("the two have different labels", field=f"{sample.name}: {labels}")
    pair = _Pair(sample.name, former, newer)
    yield _auc(pair, EVERYBODY, finding, params, margins.auc)
    yield from _calibration(pair, finding, params, margins)
    for trait, levels in sample.traits.loc[shared].items():
        for level in sorted(levels.dropna().unique(), key=str):
            here = pair.part(levels.eq(level).to_numpy(bool, na_value=False))
            yield _auc(here, f"{trait}: {level}", finding, params, margins.subgroup_auc)


def _auc(pair: _Pair, group: str, finding: str, params: EvaluateParams, margin: float) -> Line:
    scored, kept = scored_of(pair.challenger, finding)
    patients = pair.challenger.loc[kept, "group"].to_numpy(object)
    yes = scored.labels > 0
    line = Line(
        sample=pair.sample,
        group=group,
        finding=finding,
        metric="auc",
        n=len(scored),
        patients=len(set(patients)),
        positives=scored.n_positive,
        margin=margin,
    )
    rarer = min(len(set(patients[yes])), len(set(patients[~yes])))
    if len(scored) < SMALLEST_GROUP or rarer < SMALLEST_CLASS:
        return line
    found = compare(pair.challenger, pair.champion, finding, params)
    return replace(
        line,
        champion=found.second,
        challenger=found.first,
        difference=found.difference,
        state=_state(found.difference, margin, group, better=1),
        p=found.test.p if found.test else np.nan,
    )


def _calibration(
    pair: _Pair, finding: str, params: EvaluateParams, margins: Margins
) -> Iterator[Line]:
    """Brier score and calibration error of all studies."""
    scored, kept = scored_of(pair.challenger, finding)
    former, _ = scored_of(pair.champion, finding)
    groups = pair.challenger.loc[kept, "group"]
    weights = multiplicities(groups, params.bootstrap, params.seed)

    def brier(of: Scored, by: Weights | None) -> Floats:
        return counted(of, by)["brier"]

    def ece(of: Scored, by: Weights | None) -> Floats:
        return expected_calibration_error(of, by)

    for metric, margin, measure in (("brier", margins.brier, brier), ("ece", margins.ece, ece)):
        champion, challenger = (
            Estimate(float(measure(of, None)[0]), measure(of, weights), centred=metric == "ece")
            for of in (former, scored)
        )
        difference = challenger - champion
        yield Line(
            sample=pair.sample,
            group=EVERYBODY,
            finding=finding,
            metric=metric,
            n=len(scored),
            patients=groups.nunique(),
            positives=scored.n_positive,
            margin=margin,
            state=_state(difference, margin, EVERYBODY, better=-1),
            champion=champion,
            challenger=challenger,
            difference=difference,
        )


def _state(difference: Estimate, margin: float, group: str, *, better: int) -> State:
    """Whether the interval shows that the challenger is worse by less than the margin.

    A sample is large enough where an equal model would pass in 97 of 100: where the interval is no
    wider than the margin. A smaller subgroup is not judged by its interval alone, since of many
    some will look worse.

    Args:
        better: 1 where higher is better, -1 where lower is.
    """
    limits = difference.interval
    if limits is None:
        return "too few"
    least, most = sorted(-better * limit for limit in limits)  # by how much it is worse
    if most < margin:
        return "no worse"
    if most - least > margin and (group != EVERYBODY or least <= 0):
        return "too few"
    return "worse" if least > 0 else "not shown"


DATA = ("manifest_sha256", "pixels_sha256", "studies", "groups")


def change(champion: Bundle, challenger: Bundle, paths: TaskPaths) -> dict[str, Any]:
    """Data, parameters and code: what the two were made of.

    Args:
        paths: of the experiment.
    """
    before, after = champion.trained_on, challenger.trained_on
    old, new = (_flat(known.get("params", {})) for known in (before, after))
    return {
        "data": {
            "champion": {name: before.get(name) for name in DATA},
            "challenger": {name: after.get(name) for name in DATA},
            "additions": additions_fingerprint(paths),
        },
        "parameters": [
            {"name": name, "champion": old.get(name), "challenger": new.get(name)}
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ],
        "code": {"version": __version__, "digest": _code(paths.root)},
    }


def impact(champion: Bundle, challenger: Bundle, newest: Sample) -> dict[str, Any]:
    """Operating points of all inputs together, and how answers on the newest studies would turn."""
    task = challenger.task
    points, turned = {}, {}
    for name in task.finding_names:
        before, after = (b.operating_point(name, task.modalities) for b in (champion, challenger))
        points[name] = {
            "champion": before.model_dump(mode="json") if before else None,
            "challenger": after.model_dump(mode="json") if after else None,
        }
        old, new = (table[f"positive.{name}"] for table in (newest.champion, newest.challenger))
        moved = newest.challenger[f"probability.{name}"] - newest.champion[f"probability.{name}"]
        turned[name] = {
            "n": len(old),
            "to_positive": int((new & ~old).sum()),
            "to_negative": int((old & ~new).sum()),
            "mean_absolute_change": float(np.abs(moved).mean()),
        }
    return {"operating_points": points, "turned": turned}


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested parameters under dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        found |= _flat(value, f"{before}{name}.") if inner else {f"{before}{name}": value}
    return found


def _code(folder: Path) -> str:
    """Digest of the code that lies in an experiment."""
    digest = hashlib.sha256()
    for package in ("cxr_mm", "monitoring"):
        for file in files_below(folder / package):
            if file.suffix in (".py", ".yaml"):
                digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


FROZEN, NEWEST = "frozen test", "newest"
REJECTING: tuple[State, ...] = ("worse", "not shown")


@dataclass(frozen=True)
class PromotionDecision:
    """What the gate says.

    Args:
        outcome: `better`, `no worse` or `rejected`.
        reasons: why, in words.
        lines: every comparison.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    lines: tuple[Line, ...]


def decide(
    samples: Sequence[Sample],
    findings: Sequence[str],
    params: EvaluateParams,
    margins: Margins,
    drifted: Collection[str] = (),
) -> PromotionDecision:
    """Judge a challenger.

    It is rejected where it is not shown to be no worse on all studies of a sample, or in a subgroup
    that is large enough to show it, or where a smaller subgroup shows that it is worse. It is
    better where its AUC is higher on the newest studies, all of them or a subgroup that drifted.

    Args:
        samples: the frozen test and the newest studies.
        findings: their names.
        params: resamples and seed.
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
        return PromotionDecision("rejected", tuple(map(_why, failed)), tuple(lines))
    if better:
        reasons = [f"{line.name} is higher: {line.said}" for line in better]
        return PromotionDecision("better", tuple(reasons), tuple(lines))
    reason = "it is no worse, and the newest studies do not show that it is better"
    return PromotionDecision("no worse", (reason,), tuple(lines))


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
