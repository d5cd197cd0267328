"""Part `cross-dataset`: every model on every other set of images where its finding makes sense.

The sets, their labels and views are those of the task `pneumonia_sites`; NIH has further labels.
Where a model was trained on a set, models of folds answer that have not seen the patient.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.harness.outputs import paths_of
from benchmarks.harness.parts import Row
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.paths import TaskPaths, data_root
from cxr_mm.core.study import Study
from cxr_mm.core.task import ANY_OTHER, Finding, LabelRule, Task, load_task
from cxr_mm.core.types import AVAILABLE
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.manifest import clinical_column, finding_column
from cxr_mm.data.sources import members_of, read_source, source_folder
from cxr_mm.data.studies import BadRow, iter_studies
from cxr_mm.evaluation.external.overlap import find_overlap
from cxr_mm.evaluation.subsets import measure_subset, subset_rows
from cxr_mm.inference.predictor import Predictor
from cxr_mm.inference.table import answer_in_batches
from cxr_mm.models.bundle import Bundle, load_bundle
from cxr_mm.models.input_gate import InputGate

SETS_OF = "pneumonia_sites"
METRICS = ("auc", "sensitivity", "specificity", "ece")
PARAMS = EvaluateParams()
REPORTS = "Finding Labels"
RADIOLOGISTS = "rsna_class"


def _rule(column: str, positive: Sequence[str], negative: Sequence[str]) -> LabelRule:
    return LabelRule(column=column, positive=tuple(positive), negative=tuple(negative))


@dataclass(frozen=True)
class Labels:
    """Labels of one of the sets.

    Args:
        member: the set, a member of `SETS_OF`.
        title: what is compared, and who says so.
        rule: in place of the member's own rule for pneumonia.
    """

    member: str
    title: str
    rule: LabelRule | None = None


CHILDREN = Labels("children", "children, official test: pneumonia, clinical")
OPACITY = Labels("nih", "NIH: opacity against normal, radiologists")
OPACITY_ALL = Labels(
    "nih",
    "NIH: opacity against all others, radiologists",
    _rule(RADIOLOGISTS, ["Lung Opacity"], ["Normal", "No Lung Opacity / Not Normal"]),
)
IN_REPORTS = Labels(
    "nih",
    "NIH: pneumonia against no finding, reports",
    _rule(REPORTS, ["Pneumonia"], ["No Finding"]),
)
EFFUSION = Labels(
    "nih", "NIH: effusion against no finding, reports", _rule(REPORTS, ["Effusion"], ["No Finding"])
)
NO_EFFUSION = Labels(
    "nih", "NIH: effusion against all others, reports", _rule(REPORTS, ["Effusion"], [ANY_OTHER])
)
COVID_SET = Labels("covid", "COVID-19 collection: pneumonia against no finding, source")
COVID = Labels(
    "covid",
    "COVID-19 collection: COVID-19 against others, source",
    LabelRule(
        column="finding", positive=("COVID-19",), negative=(ANY_OTHER,), unlabelled=("todo",)
    ),
)
NIH_BEFORE = Labels("nih", "NIH: no COVID-19, taken before it", _rule(REPORTS, [], [ANY_OTHER]))
CHILDREN_BEFORE = Labels(
    "children", "children, official test: no COVID-19", _rule("label", [], [ANY_OTHER])
)

Answers = Literal["held out", "bundle"]
"""By fold models, or the task's own test part; or by the bundle, without patients trained on."""
CELLS: dict[tuple[str, str], dict[Labels, Answers]] = {
    ("pneumonia", "pneumonia"): {
        CHILDREN: "held out",
        OPACITY: "bundle",
        OPACITY_ALL: "bundle",
        IN_REPORTS: "bundle",
        COVID_SET: "bundle",
    },
    ("nih_opacity", "opacity"): {
        OPACITY: "held out",
        IN_REPORTS: "bundle",
        CHILDREN: "bundle",
        COVID_SET: "bundle",
    },
    ("nih_opacity", "opacity_all"): {OPACITY_ALL: "held out"},
    ("nih", "pneumonia"): {
        IN_REPORTS: "held out",
        OPACITY: "held out",
        OPACITY_ALL: "held out",
        CHILDREN: "bundle",
        COVID_SET: "bundle",
    },
    ("pneumonia_sites", "pneumonia"): {
        CHILDREN: "held out",
        OPACITY: "held out",
        COVID_SET: "held out",
    },
    ("effusion", "effusion"): {EFFUSION: "held out", NO_EFFUSION: "bundle"},
    ("covid", "covid"): {COVID: "held out", NIH_BEFORE: "bundle", CHILDREN_BEFORE: "bundle"},
}
"""Task and finding of a model → what it is asked, and which of its models answers."""


@dataclass(frozen=True)
class Answered:
    """Predictions of one model on one set, in the columns of `measure_subset`.

    Args:
        rows: a study each.
        further: metrics that are no figure of those: shares and counts by name.
    """

    rows: pd.DataFrame
    further: dict[str, float] = field(default_factory=dict)


def measure(paths: TaskPaths) -> list[Row]:
    """Rows of a model.

    Raises:
        DataNotFoundError: a set is not below the data root.
        BundleError: a bundle is damaged.
    """
    return [
        row
        for (model, finding), cells in CELLS.items()
        if model == paths.task
        for labels, how in cells.items()
        for row in _cell(model, finding, labels, how)
    ]


def _cell(model: str, finding: str, labels: Labels, how: Answers) -> Iterator[Row]:
    """Figures of one model on one set; those that are not defined are left out."""
    task = load_task(model)
    question = _question(task, finding, labels)
    studies = _studies(question)
    answer = _held_out if how == "held out" else _by_bundle
    answered = answer(task, finding, studies)
    found = measure_subset(question, answered.rows, PARAMS)["findings"][finding]
    facts = {"task": model, "row": f"{labels.title}; {how}", "n": found["n"], "seed": PARAMS.seed}
    counts = {"patients": answered.rows["patient_id"].nunique(), "with finding": found["positives"]}
    for metric in METRICS:
        if found[metric]["value"] is not None:
            yield Row(
                metric=metric, value=found[metric]["value"], ci95=found[metric]["ci95"], **facts
            )
    for metric, value in {**answered.further, **counts}.items():
        yield Row(metric=metric, value=value, **facts)


def _question(task: Task, finding: str, labels: Labels) -> Task:
    """The model's task with the set as its source, and one finding."""
    whole = load_task(SETS_OF)
    member = members_of(whole)[labels.member]
    rule = labels.rule or member.findings[0]
    fields = {name: getattr(rule, name) for name in LabelRule.model_fields}
    target = Finding(name=finding, title=finding, **fields)
    only = {
        "source": member.source,
        "findings": (target,),
        "problem": "binary",
        "views": whole.views,
    }
    return task.unfiltered().model_copy(update=only)


def _studies(question: Task) -> pd.DataFrame:
    """Labelled studies of a set as a manifest; of one with an official test part those of it."""
    with tempfile.TemporaryDirectory() as work:
        raw = read_source(question, data_root(), Path(work))
    absent = {f.name for f in question.clinical if f.column_in(raw.frame.columns) not in raw.frame}
    raw.frame[sorted(absent)] = None
    frame = to_manifest(question, raw).manifest.frame
    return frame[frame["part"].ne("train")].reset_index(drop=True)


def _labelled(studies: pd.DataFrame, finding: str, answers: pd.DataFrame) -> pd.DataFrame:
    """Predictions of the studies that have one, with the labels of the set."""
    names = {finding_column(finding): f"label.{finding}"}
    known = studies[["study_id", "patient_id", "group", *names]].rename(columns=names)
    return known.merge(answers, on="study_id")


def _held_out(task: Task, finding: str, studies: pd.DataFrame) -> Answered:
    """By what `fuse` left of studies while it had not seen their patients."""
    table = subset_rows(pd.read_parquet(paths_of(task.name).heldout), AVAILABLE)
    if task.source.kind == "merged":  # whose ids begin with the member's name
        table["study_id"] = table["study_id"].str.partition("/")[2]
    columns = ["study_id", "fold", f"probability.{finding}", f"positive.{finding}"]
    return Answered(_labelled(studies, finding, table[columns]))


def _by_bundle(task: Task, finding: str, studies: pd.DataFrame) -> Answered:
    """By the bundle, whatever its gate says; studies that it was trained on are left out."""
    bundle = load_bundle(paths_of(task.name).bundle)
    seen = _trained_on(bundle, studies)
    unseen = studies[~studies["study_id"].isin(seen)]
    rows = pd.DataFrame(_answers(bundle, finding, unseen))
    further = {"rejected": float(rows.pop("rejected").mean()), "trained on, left out": len(seen)}
    return Answered(_labelled(unseen, finding, rows), further)


def _trained_on(bundle: Bundle, studies: pd.DataFrame) -> frozenset[str]:
    """Studies that the bundle was trained on; none where its source is another, since numbers of
    patients are alike there by chance."""
    images = Path(studies["image_path"].iloc[0]).resolve()
    if not images.is_relative_to(source_folder(bundle.task, data_root())):
        return frozenset()
    return find_overlap(bundle.fingerprints, studies).studies


def _answers(bundle: Bundle, finding: str, studies: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Prediction of each study that can be answered, and whether the gate rejects its image."""
    predictor = Predictor(bundle, accept_any_image=True)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "studies.csv")
        _inputs(bundle.task, studies).to_csv(manifest, index=False)
        every = iter_studies(bundle.task, manifest)
        readable = (study for study in every if isinstance(study, Study))
        for answer in answer_in_batches(predictor, readable):
            if isinstance(answer, BadRow):
                continue
            predicted = next(f for f in answer.prediction.findings if f.finding == finding)
            yield {
                "study_id": answer.prediction.study_id,
                "fold": 0,
                f"probability.{finding}": predicted.probability,
                f"positive.{finding}": predicted.positive,
                "rejected": _is_rejected(bundle.gate, answer.image_embedding),
            }


def _is_rejected(gate: InputGate | None, embedding: NDArray[np.float32] | None) -> bool:
    if gate is None or embedding is None:
        return False
    decision = gate.check(embedding[None])[0]
    return decision is not None and decision.refused


def _inputs(task: Task, studies: pd.DataFrame) -> pd.DataFrame:
    """Ids, images and clinical features in the columns of a manifest CSV."""
    clinical = {clinical_column(name): name for name in task.clinical_names}
    plain = ["study_id", "patient_id", "image_path", "view"]
    plain = [name for name in plain if name not in task.clinical_names]
    return studies[[*plain, *clinical]].rename(columns=clinical)
