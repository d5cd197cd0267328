"""Retrain: from a labelled window to a challenger, its comparison and a change record."""

import hashlib
import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cxr_mm.core.config import PARAMS_FILE, EvaluateParams, for_task, load_params
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import atomic_directory, read_json, write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task, load_task
from cxr_mm.data.additions import additions_folder
from cxr_mm.models.bundle import Bundle, load_bundle
from cxr_mm.models.registry import BUNDLE, read_index, resolved
from cxr_mm.prediction_log import open_log
from monitoring.retraining.budget import attempt_of, frozen_digest, level
from monitoring.retraining.change_record import (
    ChangeRecord,
    Model,
    change_page,
    locked,
    read_record,
    read_records,
    record_id,
    write_record,
)
from monitoring.retraining.comparison import (
    FROZEN_FIRST,
    Margins,
    Sample,
    change,
    decide,
    impact,
)
from monitoring.retraining.experiment import create_workspace, params_of, reproduce
from monitoring.retraining.promotion import HELDOUT, first_version
from monitoring.retraining.studies import (
    HOLDOUT_SHARE,
    INPUTS,
    Labelled,
    frozen_sample,
    labelled_studies,
    newest_reference,
    newest_sample,
    write_studies,
)

EXPERIMENTS = Path("experiments")
NEWEST, REQUEST, DONE = "newest", "request.json", "done"
"""`DONE` has a file for each comparison of the experiment, with the id of its record."""
_log = logging.getLogger(__name__)
METHOD = (
    "Both models on the very same studies that neither was trained on: with the champion and, on "
    "the frozen test, with the first approved version. Limits of the differences are normal, with "
    "standard errors of a paired bootstrap over patients. Non-inferior: they exclude a loss of the "
    "margin; worse by less than the margin: they exclude 0, too. Better: a higher AUC on the "
    "newest studies, DeLong with patients as clusters, Holm. The one-sided level of 0.025 is spent "
    "over all challengers ever judged on this frozen test, the k-th at 0.025 · 6 / (π² k²)."
)


@dataclass(frozen=True)
class RetrainRequest:
    """Settings of one retraining.

    Args:
        bundle: folder of the champion, or the pointer to it.
        log: URL of the prediction log.
        studies: folder with manifest.csv and images of the studies in the log.
        since, until: bounds of the window, with UTC offset; None: unbounded.
        verdict: verdict.json of the report that led to it, if any.
        share: of the studies that are held out for the comparison.
        margins: largest losses that the challenger may have.
        project: folder with params.yaml and dvc.yaml.
    """

    bundle: Path
    log: str
    studies: Path
    since: datetime | None = None
    until: datetime | None = None
    verdict: Path | None = None
    share: float = HOLDOUT_SHARE
    margins: Margins = field(default_factory=Margins)
    project: Path = Path()


def retrain(request: RetrainRequest) -> ChangeRecord:
    """Train a challenger and compare it; the served model stays untouched.

    The same request is not run twice: an interrupted run continues, and a finished one returns its
    record. Other margins, or another reason, compare the same challenger anew.

    Raises:
        BundleError: there is no champion, or it is damaged.
        LogError: the log cannot be read.
        ManifestError: the studies cannot be read, or contradict the log.
        StageError: too few studies are labelled, or a stage failed.
    """
    champion = resolved(request.bundle)
    index = read_index(champion)
    task = question_of(index.task, request.project)
    studies = _labelled(request, task)
    key = _key(request.project, task.name, studies, index.digest)
    folder = request.project / EXPERIMENTS / task.name / key
    done = folder / DONE / f"{_comparison_key(request)}.json"
    if done.is_file():
        return read_record(read_json(done)["record"], request.project)
    if not (folder / REQUEST).is_file():
        _prepare(folder, task, studies, request.project)
    _log.info("training the challenger in %s", folder)
    reproduce(folder, task.name, request.project)
    _log.info("comparing it with the champion on %d newest studies", studies.newest.sum())
    with locked(task.name, request.project):  # no two challengers may have the same number
        record = _compare(request, champion, folder, studies)
        write_record(record, change_page(record), request.project)
        write_json(done, {"record": record.id})
    return record


def question_of(champion: Task, project: Path) -> Task:
    """The task of the project with the champion's findings alone.

    New studies may give further findings enough positives; a challenger that predicts those too
    would be another model, and nothing of it could be compared.
    """
    task = load_task(champion.name, project)
    if not task.minimum_positives:
        return task
    known = tuple(f for f in task.findings if f.name in champion.finding_names)
    if gone := set(champion.finding_names) - {f.name for f in known}:
        raise StageError(
            f"the task no longer has {', '.join(sorted(gone))}, which the served model predicts",
            field=f"task {task.name}",
            remedy="Put it back, or train and serve a model of the new task",
        )
    return task.model_copy(update={"findings": known, "minimum_positives": 0})


def _labelled(request: RetrainRequest, task: Task) -> Labelled:
    with open_log(request.log, create=False) as log:
        index = log.window_index(task.name, request.since, request.until)
        # In order of time, so that the last prediction of a study counts.
        when = dict(zip(index.study_hash.astype(str).tolist(), index.created_at, strict=True))
        return labelled_studies(
            task, request.studies, when, log.read_outcomes(), log.hash_id, request.share
        )


def _key(project: Path, task: str, studies: Labelled, digest: str) -> str:
    """Hash of champion, studies, labels, division and the task's parameters."""
    result = hashlib.sha256(f"{digest}\n{params_of(task, project)}\n".encode())
    result.update(studies.frame.to_csv().encode())
    result.update(studies.labels.assign(newest=studies.newest).to_csv().encode())
    return result.hexdigest()[:12]


def _comparison_key(request: RetrainRequest) -> str:
    """Hash of what a comparison depends on besides the experiment: margins and reason."""
    result = hashlib.sha256(request.margins.model_dump_json().encode())
    if request.verdict is not None and request.verdict.is_file():
        result.update(request.verdict.read_bytes())
    return result.hexdigest()[:12]


def _prepare(folder: Path, task: Task, studies: Labelled, project: Path) -> None:
    """Write the inputs of the pipeline, all or nothing."""
    older = ~studies.newest
    with atomic_directory(folder) as aside:
        create_workspace(aside, task, project)
        version = f"{studies.times[older].max():%Y%m%dT%H%M%SZ}-{folder.name}"
        added = additions_folder(TaskPaths(task.name, aside)) / version
        write_studies(task, studies.frame[older], studies.labels[older], added)
        newest = studies.newest
        write_studies(task, studies.frame[newest], studies.labels[newest], aside / NEWEST)
        write_json(aside / REQUEST, {"addition": version})


def _compare(
    request: RetrainRequest, champion: Path, folder: Path, studies: Labelled
) -> ChangeRecord:
    """Compare challenger and champion, and build the change record."""
    former = load_bundle(champion)
    task = former.task
    paths = TaskPaths(task.name, folder)
    newer = load_bundle(paths.bundle)
    every = for_task(load_params(folder / PARAMS_FILE), newer.task)
    params = every.evaluate
    frozen = frozen_sample(champion.parent / paths.heldout.name, paths, task, params)
    newest = newest_sample(former, newer, folder / NEWEST, paths, params)
    monitored = newest_reference(newest, newer, paths, every.reference)
    reason = _reason(request.verdict)
    samples = [frozen, *_first(request, former, paths, params), newest.sample]
    test = frozen_digest(frozen.challenger["study_id"])
    records = read_records(task.name, request.project)
    attempt = attempt_of(records, test, former.digest, newer.digest)
    drifted = _drifted(reason)
    result = decide(samples, task.finding_names, params, request.margins, drifted, attempt)
    now = datetime.now(UTC)
    left_out = Counter(studies.left_out) + Counter(newest.left_out)
    return ChangeRecord(
        id=record_id(now, newer.digest),
        task=task.name,
        made_at=now,
        synthetic=task.synthetic,
        champion=_model(former, champion, request.project),
        challenger=_model(newer, paths.bundle, request.project),
        experiment=_relative(folder, request.project),
        addition=read_json(folder / REQUEST)["addition"],
        change=change(former, newer, paths),
        reason=reason,
        protocol=_protocol(request, samples, params, left_out, studies)
        | {"reference": monitored, "level": level(attempt)},
        frozen=test,
        attempt=attempt,
        outcome=result.outcome,
        reasons=result.reasons,
        comparisons=tuple(line.to_json() for line in result.lines),
        impact=impact(former, newer, newest.sample),
    )


def _first(
    request: RetrainRequest, champion: Bundle, paths: TaskPaths, params: EvaluateParams
) -> list[Sample]:
    """The frozen test against the first approved version, unless that is the champion."""
    folder = first_version(champion.task.name, request.project)
    if folder is None or read_index(folder / BUNDLE).digest == champion.digest:
        return []
    sample = frozen_sample(folder / HELDOUT, paths, champion.task, params)
    return [replace(sample, name=FROZEN_FIRST)]


def _protocol(
    request: RetrainRequest,
    samples: list[Sample],
    params: EvaluateParams,
    left_out: Counter[str],
    studies: Labelled,
) -> dict[str, Any]:
    compared = {
        f"{sample.name}, compared": len(
            set(sample.champion["study_id"]) & set(sample.challenger["study_id"])
        )
        for sample in samples
    }
    return {
        "method": METHOD,
        "margins": request.margins.model_dump(mode="json"),
        "resamples": params.bootstrap,
        "holdout_share": request.share,
        "window": [str(bound) if bound else None for bound in (request.since, request.until)],
        "studies": {
            "handed in, labelled and older": int((~studies.newest).sum()),
            "handed in, labelled and newest": int(studies.newest.sum()),
            **compared,
            **{f"left out: {reason}": n for reason, n in left_out.items()},
        },
    }


def _model(bundle: Bundle, folder: Path, project: Path) -> Model:
    return Model(digest=bundle.digest, name=bundle.name, folder=_relative(folder.parent, project))


def _relative(folder: Path, project: Path) -> str:
    """Path of a folder relative to the project; absolute outside it."""
    path, root = folder.resolve(), project.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _reason(verdict: Path | None) -> dict[str, Any]:
    """Summary of the monitoring report that led to the retraining."""
    if verdict is None:
        return {}
    try:
        result = read_json(verdict)
        return {name: result[name] for name in ("status", "headline", "digest", "n", "reasons")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(
            "not a verdict", field=str(verdict), remedy="Name verdict.json of a report"
        ) from error


def _drifted(reason: dict[str, Any]) -> Collection[str]:
    """Traits behind the columns that drifted; `has.image` and the like are of the inputs."""
    names = {str(one["name"]) for one in reason.get("reasons", ())}
    plain = {name.removeprefix("clinical.") for name in names}
    return plain | ({INPUTS} if any(name.startswith("has.") for name in names) else set())
