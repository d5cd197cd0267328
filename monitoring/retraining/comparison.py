"""Comparison: a challenger and a champion on the same studies, figure by figure.

Differences are paired; their standard errors are of a bootstrap over patients. Non-inferiority is
judged by the confidence limit of the difference (Piaggio et al., JAMA 2012; 308:2594), at the level
that the error budget leaves for this challenger (`budget`).
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.stats import norm

from cxr_mm import __version__
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import InputError
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.types import LEVEL, Frozen, plural
from cxr_mm.data.additions import additions_fingerprint
from cxr_mm.data.sources.base import files_below
from cxr_mm.evaluation.compare import compare
from cxr_mm.evaluation.metrics import Floats, Scored, counted, expected_calibration_error
from cxr_mm.evaluation.resampling import Estimate, Weights, holm, multiplicities
from cxr_mm.evaluation.subsets import scored_of
from cxr_mm.evaluation.traits import SMALLEST_CLASS, SMALLEST_GROUP
from cxr_mm.models.bundle import Bundle
from monitoring.retraining.budget import level
from monitoring.retraining.change_record import Outcome

EVERYBODY = "all"
LESS: Literal["worse by less than the margin"] = "worse by less than the margin"
State = Literal["non-inferior", "worse by less than the margin", "worse", "not shown", "too few"]


class Margins(Frozen):
    """Non-inferiority margins: largest loss that a challenger may have."""

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
        name: `FROZEN`, `FROZEN_FIRST` or `NEWEST`.
        champion, challenger: tables as `compare` takes them; studies that only one has are left
            out.
        traits: by `study_id`, a column for each characteristic that forms subgroups; missing if
            unknown.
    """

    name: str
    champion: pd.DataFrame
    challenger: pd.DataFrame
    traits: pd.DataFrame


@dataclass(frozen=True)
class Line:
    """One comparison: challenger minus champion.

    Args:
        sample, group, finding: what is compared; `group` is `all`, or `trait: level`.
        metric: `auc`, `brier` or `ece`.
        n, patients, positives: studies compared, their patients, studies with the finding.
        margin: largest loss allowed.
        state: result of the test. `non-inferior`: the limits exclude a loss of the margin;
            `worse by less than the margin`: they exclude 0 as well; `worse`: both are on the worse
            side of 0, one beyond the margin; `not shown`: it may be worse by more than the margin;
            `too few`: an equal model could not be distinguished from a worse one.
        champion, challenger, difference: figures with 95 % intervals; None if not computed. In
            `FROZEN_FIRST` the champion is the first approved version.
        limits: of the difference, at the level of this challenger; None if not computed.
        p: of no difference in AUC; NaN without a test.
        p_holm: Holm-corrected, where the line is part of a family of tests; else NaN.
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
    limits: tuple[float, float] | None = None
    p: float = np.nan
    p_holm: float = np.nan

    @property
    def name(self) -> str:
        """Name of the line in reasons."""
        group = "" if self.group == EVERYBODY else f", {self.group}"
        return f"{self.metric.upper()} of {self.finding}, {self.sample}{group}"

    @property
    def description(self) -> str:
        """The difference with its limits, in words."""
        if self.difference is None or self.limits is None:
            return (
                f"no interval from {plural(self.n, 'study')} of {plural(self.patients, 'patient')}"
            )
        low, high = self.limits
        return (
            f"{self.difference.value:+.3f} ({low:+.3f} to {high:+.3f}, {plural(self.n, 'study')})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; None for what was not computed."""

        def plain(value: Any) -> Any:
            if isinstance(value, Estimate):
                return value.to_json()
            return None if isinstance(value, float) and np.isnan(value) else value

        return {name: plain(value) for name, value in vars(self).items()}


def compared(
    sample: Sample, finding: str, params: EvaluateParams, margins: Margins, alpha: float
) -> Iterator[Line]:
    """All studies by each metric, then the AUC of each subgroup.

    Args:
        alpha: one-sided level of the limits.

    Raises:
        InputError: the two have no study in common, a table lacks a column, or the two differ in
            a label.
    """
    pair = _paired(sample, f"label.{finding}")
    yield _auc(pair, EVERYBODY, finding, params, margins.auc, alpha)
    yield from _calibration(pair, finding, params, margins, alpha)
    for trait, levels in pair.traits.items():
        for value in sorted(levels.dropna().unique(), key=str):
            rows = levels.eq(value).to_numpy(bool, na_value=False)
            group = replace(pair, champion=pair.champion[rows], challenger=pair.challenger[rows])
            name = f"{trait}: {value}"
            yield _auc(group, name, finding, params, margins.subgroup_auc, alpha)


def _paired(sample: Sample, labels: str) -> Sample:
    """The studies that both predicted, in the same order."""
    shared = sorted(set(sample.champion["study_id"]) & set(sample.challenger["study_id"]))
    if not shared:
        raise InputError("the two models have no study in common", field=sample.name)
    former, newer = (
        table.set_index("study_id").loc[shared].reset_index()
        for table in (sample.champion, sample.challenger)
    )
    if not former[labels].equals(newer[labels]):
        raise InputError("the two have different labels", field=f"{sample.name}: {labels}")
    return Sample(sample.name, former, newer, sample.traits.loc[shared])


def _counted(pair: Sample, group: str, finding: str, metric: str, margin: float) -> Line:
    """A line without its figures."""
    scored, labelled = scored_of(pair.challenger, finding)
    return Line(
        sample=pair.name,
        group=group,
        finding=finding,
        metric=metric,
        n=len(scored),
        patients=pair.challenger.loc[labelled, "group"].nunique(),
        positives=scored.n_positive,
        margin=margin,
    )


def _auc(
    pair: Sample, group: str, finding: str, params: EvaluateParams, margin: float, alpha: float
) -> Line:
    line = _counted(pair, group, finding, "auc", margin)
    scored, labelled = scored_of(pair.challenger, finding)
    patients = pair.challenger.loc[labelled, "group"].to_numpy(object)
    yes = scored.labels > 0
    rarer = min(len(set(patients[yes])), len(set(patients[~yes])))
    if line.n < SMALLEST_GROUP or rarer < SMALLEST_CLASS:
        return line
    result = compare(pair.challenger, pair.champion, finding, params)
    limits = _limits(result.difference, alpha)
    return replace(
        line,
        champion=result.second,
        challenger=result.first,
        difference=result.difference,
        limits=limits,
        state=_state(result.difference, limits, margin, group, better=1),
        p=result.test.p if result.test else np.nan,
    )


def _calibration(
    pair: Sample, finding: str, params: EvaluateParams, margins: Margins, alpha: float
) -> Iterator[Line]:
    """Brier score and calibration error of all studies."""
    scored, labelled = scored_of(pair.challenger, finding)
    former, _ = scored_of(pair.champion, finding)
    weights = multiplicities(pair.challenger.loc[labelled, "group"], params.bootstrap, params.seed)

    def brier(of: Scored, by: Weights | None) -> Floats:
        return counted(of, by)["brier"]

    for metric, margin, measure in (
        ("brier", margins.brier, brier),
        ("ece", margins.ece, expected_calibration_error),
    ):
        champion, challenger = (
            Estimate(float(measure(of, None)[0]), measure(of, weights), centred=metric == "ece")
            for of in (former, scored)
        )
        difference = challenger - champion
        limits = _limits(difference, alpha)
        yield replace(
            _counted(pair, EVERYBODY, finding, metric, margin),
            limits=limits,
            state=_state(difference, limits, margin, EVERYBODY, better=-1),
            champion=champion,
            challenger=challenger,
            difference=difference,
        )


def _limits(difference: Estimate, alpha: float) -> tuple[float, float] | None:
    """Normal confidence limits from the bootstrap's standard error, each at the level `alpha`.

    Percentiles would not do: the budget asks for tails of which a thousand resamples have none.
    """
    if difference.interval is None:
        return None
    reach = float(norm.isf(alpha) * np.nanstd(difference.draws))
    return difference.value - reach, difference.value + reach


def _state(
    difference: Estimate,
    limits: tuple[float, float] | None,
    margin: float,
    group: str,
    *,
    better: int,
) -> State:
    """Whether the limits show that the challenger is worse by less than the margin.

    A sample is large enough where an equal model would pass in 97 of 100 at the level of a single
    test: where the 95 % interval is no wider than the margin, whatever budget is left. A smaller
    subgroup is not decided by its limits alone, since of many some will look worse.

    Args:
        better: 1 where higher is better, -1 where lower is.
    """
    interval = difference.interval
    if limits is None or interval is None:
        return "too few"
    least, most = sorted(-better * limit for limit in limits)  # by how much it is worse
    if most < margin:
        return LESS if least > 0 else "non-inferior"
    if interval[1] - interval[0] > margin and (group != EVERYBODY or least <= 0):
        return "too few"
    return "worse" if least > 0 else "not shown"


DATA = ("manifest_sha256", "pixels_sha256", "studies", "groups")


def change(champion: Bundle, challenger: Bundle, paths: TaskPaths) -> dict[str, Any]:
    """Compare data, parameters and code of the two.

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
    """Operating points with all inputs, and how predictions on the newest studies would change."""
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


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Nested parameters under dotted names."""
    return {
        str(k): v for row in pd.json_normalize(values).to_dict("records") for k, v in row.items()
    }


def _code(folder: Path) -> str:
    """Digest of the code in an experiment."""
    digest = hashlib.sha256()
    for package in ("cxr_mm", "monitoring"):
        for file in files_below(folder / package):
            if file.suffix in (".py", ".yaml"):
                digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


FROZEN, NEWEST = "frozen test", "newest"
FROZEN_FIRST = "frozen test, against the first approved version"
REJECTING: tuple[State, ...] = ("worse", "not shown")


@dataclass(frozen=True)
class PromotionDecision:
    """Decision of the promotion gate.

    Args:
        outcome: `better`, `non-inferior`, `worse by less than the margin` or `rejected`.
        reasons: reasons in words.
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
    attempt: int = 1,
) -> PromotionDecision:
    """Compare a challenger with the champion and the first approved version, and decide.

    It is rejected where it is not shown to be worse by less than the margin on all studies of a
    sample, or in a subgroup that is large enough to show it, or where a smaller subgroup shows that
    it is worse. It is better where its AUC is higher on the newest studies, all of them or a
    subgroup that drifted.

    Args:
        samples: the frozen test with each of the two, and the newest studies.
        findings: their names.
        params: resamples and seed.
        margins: largest losses allowed.
        drifted: traits in which monitoring found drift.
        attempt: number of the challenger among those of this frozen test.

    Raises:
        InputError: as `compared`.
    """
    alpha = level(attempt)
    lines = [
        line
        for sample in samples
        for finding in findings
        for line in compared(sample, finding, params, margins, alpha)
    ]
    lines = _worse_small_groups(lines)
    lines, better = _better(lines, drifted, 2 * alpha)
    failed = [line for line in lines if line.state in REJECTING or _unproven(line)]
    if failed:
        return PromotionDecision("rejected", tuple(map(_failure, failed)), tuple(lines))
    less = [line for line in lines if line.state == LESS]
    lower = [f"{line.name} is {LESS} of {line.margin:g}: {line.description}" for line in less]
    if better:
        reasons = [f"{line.name} is higher: {line.description}" for line in better]
        return PromotionDecision("better", (*reasons, *lower), tuple(lines))
    if less:
        return PromotionDecision(LESS, tuple(lower), tuple(lines))
    reason = (
        "any loss is smaller than the margins; the newest studies do not show that it is better"
    )
    return PromotionDecision("non-inferior", (reason,), tuple(lines))


def _unproven(line: Line) -> bool:
    """Whether all studies together are too few, which prove nothing."""
    return line.group == EVERYBODY and line.state == "too few"


def _failure(line: Line) -> str:
    words = {
        "worse": "is worse",
        "not shown": f"may be worse by more than {line.margin:g}",
        "too few": "cannot be shown to lose less than the margin from so few studies",
    }
    return f"{line.name} {words[line.state]}: {line.description}"


def _worse_small_groups(lines: Sequence[Line]) -> list[Line]:
    """Test whether subgroups too small for the interval are worse (Holm over them)."""
    small = [
        i
        for i, line in enumerate(lines)
        if line.group != EVERYBODY and line.state == "too few" and np.isfinite(line.p)
    ]
    tested = _corrected(lines, small)
    for i in small:
        difference = lines[i].difference
        assert difference is not None
        if tested[i].p_holm < 1 - LEVEL and difference.value < 0:
            tested[i] = replace(tested[i], state="worse")
    return tested


def _better(
    lines: Sequence[Line], drifted: Collection[str], alpha: float
) -> tuple[list[Line], list[Line]]:
    """The lines, and those with a higher AUC on the newest studies or a drifted subgroup."""
    family = [
        i
        for i, line in enumerate(lines)
        if line.sample == NEWEST
        and line.metric == "auc"
        and np.isfinite(line.p)
        and (line.group == EVERYBODY or line.group.split(":")[0] in drifted)
    ]
    tested = _corrected(lines, family)
    return tested, [tested[i] for i in family if _is_higher(tested[i], alpha)]


def _corrected(lines: Sequence[Line], family: Sequence[int]) -> list[Line]:
    """The lines, with Holm-corrected p values for a family of tests."""
    tested = list(lines)
    for i, p in zip(family, holm([lines[i].p for i in family]), strict=True):
        tested[i] = replace(lines[i], p_holm=p)
    return tested


def _is_higher(line: Line, alpha: float) -> bool:
    return line.limits is not None and line.limits[0] > 0 and line.p_holm < alpha
