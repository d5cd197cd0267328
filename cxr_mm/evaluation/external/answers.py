"""Answers of a bundle to the studies of a table, from every subset of what each has, in shards."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from cxr_mm.core.prediction import Answer
from cxr_mm.core.progress import ProgressBar
from cxr_mm.core.shards.work import Load, Work, shard_size, shards_of
from cxr_mm.core.types import AVAILABLE, HeaderUse, subset_name, subsets
from cxr_mm.data.studies import BadRow, read_studies
from cxr_mm.inference.predictor import EncodedAnswer, Predictor
from cxr_mm.inference.table import BATCH, PredictionTable, answer_in_batches
from cxr_mm.inference.tally import Tally, TallyReport

Row = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """What became of the studies.

    Args:
        rows: predictions, several of each study that was answered.
        bad: studies that were not.
        report: counts of both by reason.
    """

    rows: list[Row]
    bad: list[BadRow]
    report: TallyReport


def answering(
    predictor: Predictor, studies: Sequence[Mapping[Any, Any]], header: HeaderUse
) -> Load:
    """What answers studies in shards; a worker elsewhere gets the predictor and the studies.

    Args:
        predictor: the model.
        studies: rows of a table.
        header: as `iter_studies` has it.
    """
    return partial(_load, predictor, studies, header)


def shards_to_answer(studies: int) -> range:
    """Numbers of the shards of so many studies."""
    return shards_of(studies, shard_size(studies, BATCH))


def collect_answers(predictor: Predictor, studies: int, results: Iterator[Row]) -> Answers:
    """Join the results of the shards of so many studies."""
    rows: list[Row] = []
    bad: list[BadRow] = []
    report = Tally(predictor.bundle.task, predictor.bundle.unchecked).report()
    with ProgressBar(total=studies, desc="studies", unit="study") as bar:
        for result in results:
            rows += json.loads(result["rows"])
            bad += [BadRow(**fields) for fields in json.loads(result["bad"])]
            report = report.plus(TallyReport.model_validate_json(result["report"]))
            bar.update(report.predicted + report.failed - bar.n)
    return Answers(rows, bad, report)


def _load(predictor: Predictor, studies: Sequence[Mapping[Any, Any]], header: HeaderUse) -> Work:
    return partial(_answer, predictor, studies, header)


def _answer(
    predictor: Predictor,
    studies: Sequence[Mapping[Any, Any]],
    header: HeaderUse,
    numbers: Sequence[int],
) -> Iterator[Row]:
    task, size = predictor.bundle.task, shard_size(len(studies), BATCH)
    own = [studies[number * size : (number + 1) * size] for number in numbers]
    read = read_studies(task, (study for shard in own for study in shard), BATCH, header)
    for number, shard in zip(numbers, own, strict=True):
        tally = Tally(task, predictor.bundle.unchecked)
        answers = tally.answered(answer_in_batches(predictor, islice(read, len(shard))))
        rows = [row for answer in answers for row in _rows(predictor, answer)]
        yield {
            "shard": number,
            "rows": json.dumps(rows),
            "bad": json.dumps([vars(row) for row in tally.bad]),
            "report": tally.report().model_dump_json(),
        }


def _rows(predictor: Predictor, answer: EncodedAnswer) -> list[Row]:
    """One row for all that a study has (`available`), and one for every subset of it."""
    used = answer.prediction.modalities
    rows = [_row(answer, AVAILABLE), _row(answer, subset_name(used))]
    for subset in subsets(used)[:-1]:
        results = predictor.attempt_encoded([answer.study], answer.encoded, subset)
        rows += [_row(each, subset_name(subset)) for each in results if isinstance(each, Answer)]
    return rows


def _row(answer: Answer, subset: str) -> Row:
    prediction = answer.prediction
    row: Row = {
        "study_id": prediction.study_id,
        "subset": subset,
        "modalities": subset_name(prediction.modalities),
        "fold": 0,
        **PredictionTable(tuple(f.finding for f in prediction.findings)).values(prediction),
    }
    return row if prediction.coverage is None else row | {"coverage": prediction.coverage}
