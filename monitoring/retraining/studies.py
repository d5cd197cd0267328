"""Studies: a folder of studies with labels and times of the log, divided by time and patient.

The older part becomes a version of additions; the newest is held out for the comparison. Both are
folders in the layout of a manifest CSV, with copies of the images, named by numbers.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.config import EvaluateParams, ReferenceParams
from cxr_mm.core.errors import ManifestError, StageError
from cxr_mm.core.files import atomic_directory
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.record import Outcome, PredictionRecord, record_of
from cxr_mm.core.study import Study
from cxr_mm.core.task import ANY_OTHER, Finding, Task
from cxr_mm.core.types import AVAILABLE, MODALITIES, plural, subset_name
from cxr_mm.data.additions import read_addition
from cxr_mm.data.manifest import Manifest, finding_column, load_manifest
from cxr_mm.data.sources.label_rules import labels_of
from cxr_mm.data.sources.manifest_csv import DEFAULT_FILE, read_manifest_csv
from cxr_mm.data.studies import BadRow, iter_studies
from cxr_mm.evaluation.subsets import subset_rows
from cxr_mm.evaluation.traits import read_traits
from cxr_mm.inference.predictor import EncodedAnswer, Predictor
from cxr_mm.inference.table import PredictionTable, answer_in_batches
from cxr_mm.models.bundle import Bundle
from monitoring.reference import EPOCH, freeze, known_outcomes, rejected_images, study_name
from monitoring.retraining.comparison import FROZEN, NEWEST, Sample
from monitoring.retraining.experiment import NEWEST_REFERENCE_FOLDER
from monitoring.statistics import as_codes

HOLDOUT_SHARE = 0.4
"""Share of the studies that is held out for the comparison."""
FEWEST = 20
"""Studies below which neither part is of use."""
OPTIONAL = ("image_path", "view", "site", "group")


@dataclass(frozen=True)
class Labelled:
    """Studies with a time and a label.

    Args:
        frame: rows of the manifest CSV that are used, image paths absolute.
        labels: (N, F) 1, 0 or NaN, columns by the names of findings.
        times: when each was last predicted.
        newest: (N,) whether it is held out.
        left_out: reason → studies of the folder that are not used.
    """

    frame: pd.DataFrame
    labels: pd.DataFrame
    times: "pd.Series[pd.Timestamp]"
    newest: NDArray[np.bool_]
    left_out: dict[str, int]


def labelled_studies(
    task: Task,
    folder: Path,
    when: Mapping[str, np.datetime64],
    outcomes: Sequence[Outcome],
    hash_id: Callable[[str], str],
    share: float = HOLDOUT_SHARE,
) -> Labelled:
    """Read the studies of a folder, join them with the log, and divide them.

    Args:
        task: the question.
        folder: contains manifest.csv and images; columns of findings are optional.
        when: hash of a study → when it was last predicted in the window, UTC; others are left
            out.
        outcomes: labels of the log.
        hash_id: `PredictionLog.hash_id`.
        share: of the studies to hold out, whole patients, newest first.

    Raises:
        ManifestError: the table lacks something, a study has no patient, or folder and log give it
            different labels.
        StageError: too few studies have a label.
    """
    path = folder / DEFAULT_FILE
    frame = read_manifest_csv(path, task, "predict")
    _check_patients(frame, path)
    hashes = frame["study_id"].map(hash_id)
    times = pd.to_datetime(hashes.map(when), utc=True)
    labels = _labels(task, frame, hashes, outcomes, path)
    logged, message = times.notna(), labels.notna().any(axis=1)
    left_out = {"not in the window of the log": int((~logged).sum())}
    left_out["no label"] = int((logged & ~message).sum())
    used = logged & message
    frame, labels, times = frame[used], labels[used], times[used]
    newest = newest_patients(frame["patient_id"], times, share)
    if min(newest.sum(), (~newest).sum()) < FEWEST:
        raise StageError(
            f"{plural(int((~newest).sum()), 'study')} for training and {int(newest.sum())} for the "
            f"comparison have a label; {FEWEST} of each are the least",
            field=str(folder),
            remedy="Collect outcomes, or take a longer window",
        )
    return Labelled(frame, labels, times, newest, left_out)


def newest_patients(
    patients: "pd.Series[str]", times: "pd.Series[pd.Timestamp]", share: float
) -> NDArray[np.bool_]:
    """Studies (N,) of the patients who came last, until they are at least `share` of all.

    A patient is as new as the newest study of hers; those equally new go by name.
    """
    last = times.groupby(patients.to_numpy()).max()
    order = last.sort_index().sort_values(ascending=False, kind="stable").index
    sizes = patients.value_counts().loc[order].cumsum()
    wanted = int(np.searchsorted(sizes.to_numpy(), share * len(patients))) + 1
    return patients.isin(order[:wanted]).to_numpy(bool)


def write_studies(task: Task, frame: pd.DataFrame, labels: pd.DataFrame, folder: Path) -> None:
    """Write studies and copies of their images as a version of additions, whole or not at all."""
    columns = ["study_id", "patient_id", *(c for c in OPTIONAL if c in frame)]
    columns += [feature.column_in(frame.columns) for feature in task.clinical]
    columns += [task.note.column] if task.note else []
    columns += [task.group_key] if task.group_key in frame else []
    table = frame[list(dict.fromkeys(columns))].copy()
    for finding in task.findings:
        table[finding.name] = [_cell(finding, label) for label in labels[finding.name]]
    with atomic_directory(folder) as aside:
        (aside / "images").mkdir()
        images = [_copied(cell, aside / "images", i) for i, cell in enumerate(frame["image_path"])]
        table["image_path"] = images
        table.to_csv(aside / DEFAULT_FILE, index=False)


def _check_patients(frame: pd.DataFrame, path: Path) -> None:
    without = frame["patient_id"].isna()
    if without.any():
        raise ManifestError(
            f"study {frame.loc[without, 'study_id'].iloc[0]!r} has none",
            field=f"{path}: patient_id",
            remedy="Give every study a patient: no patient may be in both parts",
        )


def _labels(
    task: Task,
    frame: pd.DataFrame,
    hashes: "pd.Series[str]",
    outcomes: Sequence[Outcome],
    path: Path,
) -> pd.DataFrame:
    """Labels of folder and log together."""
    missing = [f.name for f in task.findings if not {f.raw_column, f.name} & set(frame.columns)]
    own, _ = labels_of(task, frame.assign(**dict.fromkeys(missing)))
    logged = {(o.study_hash, o.finding): float(o.label) for o in outcomes}
    merged = {}
    for name in task.finding_names:
        mine = own[finding_column(name)]
        theirs = pd.Series([logged.get((h, name), np.nan) for h in hashes], index=frame.index)
        differ = mine.notna() & theirs.notna() & mine.ne(theirs)
        if differ.any():
            raise ManifestError(
                f"study {frame.loc[differ, 'study_id'].iloc[0]!r} is {mine[differ].iloc[0]:.0f} "
                f"here and {theirs[differ].iloc[0]:.0f} in the log",
                field=f"{path}: {name}",
                remedy="Correct one of the two",
            )
        merged[name] = mine.fillna(theirs)
    return pd.DataFrame(merged)


def _cell(finding: Finding, label: float) -> str | None:
    """A label as the task reads it: in its own words where the column has the finding's name."""
    if np.isnan(label):
        return None
    if finding.raw_column != finding.name:
        return f"{label:.0f}"
    if label:
        return finding.positive[0]
    return "0" if ANY_OTHER in finding.negative else finding.negative[0]


def _copied(cell: object, images: Path, number: int) -> str | None:
    """Path of the copy of an image; a missing image is named, and left out later."""
    if not isinstance(cell, str):
        return None
    source = Path(cell)
    target = images / f"{number:06d}{source.suffix.lower()}"
    if source.is_file():
        shutil.copy2(source, target)
    return f"{images.name}/{target.name}"


INPUTS = "inputs"
"""The trait that forms subgroups by the modalities that a study has."""


@dataclass(frozen=True)
class Newest:
    """The newest studies, answered by both models.

    Args:
        sample: their predictions.
        left_out: reason → studies that are not among them.
        frame: rows of the manifest of every study, of patients that nothing was trained on.
        records: what the log would hold of the challenger's answers, images that its input gate
            rejects included; ids are numbers of rows of `frame`.
    """

    sample: Sample
    left_out: dict[str, int]
    frame: pd.DataFrame
    records: list[PredictionRecord]


def frozen_sample(champion: Path, paths: TaskPaths, task: Task, params: EvaluateParams) -> Sample:
    """Held-out predictions of both; of those, only studies that both held out count.

    Args:
        champion: heldout.parquet of the champion.
        paths: of the experiment.

    Raises:
        StageError: one of them is missing.
    """
    tables = []
    for path in (champion, paths.heldout):
        if not path.is_file():
            raise StageError("no such file", field=str(path), remedy="Run the stage fuse first")
        tables.append(subset_rows(pd.read_parquet(path), AVAILABLE))
    shared = sorted(set(tables[0]["study_id"]) & set(tables[1]["study_id"]))
    manifest = load_manifest(paths, task)
    names = [
        subset_name(m for m, has in zip(MODALITIES, row, strict=True) if has)
        for row in manifest.mask()
    ]
    inputs = pd.Series(names, index=manifest.frame["study_id"])
    traits = _traits(manifest, params, shared, inputs)
    return Sample(FROZEN, tables[0], tables[1], traits)


def newest_sample(
    champion: Bundle, challenger: Bundle, folder: Path, paths: TaskPaths, params: EvaluateParams
) -> Newest:
    """Ask both models about the studies that were held out for the comparison.

    Left out are patients that either was trained on, and studies that either cannot answer.

    Args:
        folder: what `write_studies` wrote.
        paths: of the experiment.

    Raises:
        ManifestError: no study is left.
        StageError: the experiment has not run.
    """
    manifest, left_out = _holdout(challenger.task, folder, paths)
    known = manifest.frame.set_index("study_id")
    numbers = {name: i for i, name in enumerate(known.index)}
    patients = as_codes(known["group"].to_numpy(object))
    codec, records, rows = PredictionTable(challenger.task.finding_names), [], []
    for former, newer in _answers(champion, challenger, folder, known, left_out):
        if isinstance(newer, EncodedAnswer):
            number = numbers[newer.study.study_id]
            records.append(_record(newer, number, patients[number]))
        if (
            isinstance(former, BadRow)
            or isinstance(newer, BadRow)
            or rejected_images(challenger, records[-1:])
        ):
            left_out["its image was refused"] += 1
            continue
        study = known.loc[newer.study.study_id].to_dict()
        rows.append([_row(codec, study, answer) for answer in (former, newer)])
    columns = ["study_id", "group", INPUTS, *(f"label.{n}" for n in codec.findings), *codec.columns]
    tables = [pd.DataFrame([row[i] for row in rows], columns=columns) for i in range(2)]
    inputs = tables[1].set_index("study_id")[INPUTS]
    traits = _traits(manifest, params, inputs.index.tolist(), inputs)
    sample = Sample(NEWEST, tables[0], tables[1], traits)
    return Newest(sample, dict(+left_out), manifest.frame, records)


def _holdout(task: Task, folder: Path, paths: TaskPaths) -> tuple[Manifest, Counter[str]]:
    """Read what `write_studies` wrote, less the patients of the experiment's training data."""
    read = read_addition(task, folder)
    manifest, known = read.manifest, set(load_manifest(paths, task).frame["patient_id"])
    seen = manifest.frame["patient_id"].isin(known)
    left_out = Counter(dropped.reason for dropped in read.dropped)
    left_out["the patient is in the training data"] = int(seen.sum())
    return Manifest(task, manifest.frame[~seen].reset_index(drop=True)), left_out


def _answers(
    champion: Bundle,
    challenger: Bundle,
    folder: Path,
    known: pd.DataFrame,
    left_out: Counter[str],
) -> Iterator[tuple[EncodedAnswer | BadRow, EncodedAnswer | BadRow]]:
    """Answers of both to each study; the challenger's also where it rejects the image, for its
    reference counts such images."""
    studies = _readable(iter_studies(challenger.task, folder / DEFAULT_FILE), known, left_out)
    first, second = tee(studies)
    yield from zip(
        answer_in_batches(Predictor(champion), first),
        answer_in_batches(Predictor(challenger, accept_any_image=True), second),
        strict=True,
    )


def _readable(
    items: Iterable[Study | BadRow], known: pd.DataFrame, left_out: Counter[str]
) -> Iterator[Study]:
    """Studies of the manifest; those that cannot be read are counted."""
    for item in items:
        if item.study_id not in known.index:
            continue
        if isinstance(item, Study):
            yield item
        else:
            left_out["it cannot be read"] += 1


def _row(codec: PredictionTable, known: dict[Any, Any], answer: EncodedAnswer) -> dict[str, Any]:
    return {
        "study_id": answer.study.study_id,
        "group": known["group"],
        INPUTS: subset_name(answer.prediction.modalities),
        **{f"label.{name}": known[finding_column(name)] for name in codec.findings},
        **codec.values(answer.prediction),
    }


def _record(answer: EncodedAnswer, number: int, patient: int) -> PredictionRecord:
    """What the log would hold of an answer, under numbers instead of ids."""
    name = study_name(number)
    return record_of(
        answer, record_id=name, created_at=EPOCH, study=name, patient=f"patient {patient}"
    )


def _traits(
    manifest: Manifest, params: EvaluateParams, among: list[str], inputs: "pd.Series[str]"
) -> pd.DataFrame:
    """Characteristics of these studies, and which inputs each has."""
    frame = read_traits(manifest, params, among).frame.astype(object)
    return frame.assign(**{INPUTS: inputs.reindex(frame.index)})


def newest_reference(
    newest: Newest, challenger: Bundle, paths: TaskPaths, params: ReferenceParams
) -> str:
    """Freeze a reference of the newest studies, if they are enough; returns what it consists of.

    Args:
        newest: from `newest_sample`.
        challenger: the model that answered.
        paths: of the experiment.
        params: of the reference.
    """
    frame, records = newest.frame, newest.records
    if len(frame) < params.newest_studies:
        return (
            f"held-out studies, since {len(frame)} newest ones are fewer than the "
            f"{params.newest_studies} of reference.newest_studies"
        )
    smallest = min(params.window_sizes)
    if len(records) < 2 * smallest:
        return (
            f"held-out studies, since the newest ones are too few ({len(records)}; windows of "
            f"{smallest} need at least {2 * smallest})"
        )
    task, out = challenger.task, paths.root / NEWEST_REFERENCE_FOLDER
    labels = {name: frame[finding_column(name)] for name in task.finding_names}
    outcomes, refused = known_outcomes(labels, "newest"), rejected_images(challenger, records)
    freeze(task, challenger.digest, records, outcomes, params, out, refused=refused)
    return f"the {len(records)} newest studies"
