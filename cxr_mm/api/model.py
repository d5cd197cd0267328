"""Model: a loaded bundle that predicts, explains and is evaluated; what `cxr_mm.load` returns."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from cxr_mm.api.frames import FolderInput, count_images, table_of
from cxr_mm.api.images import ImageInput, reader_of
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import InputError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import reports_of
from cxr_mm.core.prediction import Answer, Prediction
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.core.types import HeaderUse, plural
from cxr_mm.data.studies import BadRow, build_study, iter_studies
from cxr_mm.inference.predictor import Predictor, load_predictor
from cxr_mm.inference.table import BATCH, ERROR, PredictionTable, answer_in_batches
from cxr_mm.inference.tally import Tally
from cxr_mm.models.bundle import check_absent, save_bundle
from cxr_mm.models.registry import resolved

if TYPE_CHECKING:
    from cxr_mm.explain.study import ExplainedStudy

_log = logging.getLogger(__name__)


class Card(str):
    """A model card: Markdown, which a notebook shows as such."""

    __slots__ = ()

    def _repr_markdown_(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Evaluation:
    """Results on labelled studies of another site; printed, it is the summary of `evaluate-on`.

    Args:
        metrics: content of metrics.json: discrimination, calibration and decisions with 95 %
            intervals over patients, for every subset of modalities.
        predictions: a row for each study and subset of its modalities, with labels.
        bad_rows: `study_id` and `reason` of each row that could not be used.
        summary: the text for a terminal.
    """

    metrics: dict[str, Any]
    predictions: pd.DataFrame
    bad_rows: pd.DataFrame
    summary: str

    def __str__(self) -> str:
        return self.summary


class Model:
    """A loaded bundle. Threads may share it; nothing changes it.

    Args:
        predictor: the bundle with its input gate.
        reports: folders that may have the bundle's model card and faithfulness figures.
    """

    def __init__(self, predictor: Predictor, reports: Sequence[Path]) -> None:
        self.predictor, self._reports = predictor, tuple(reports)

    def __repr__(self) -> str:
        return f"<Model {self.predictor.bundle.name}, digest {self.digest[:12]}>"

    @property
    def task(self) -> Task:
        """Findings, clinical features and note, source, split and limitations."""
        return self.predictor.bundle.task

    @property
    def digest(self) -> str:
        """Digest over the bundle's parts (sha256, hexadecimal)."""
        return self.predictor.bundle.digest

    @property
    def card(self) -> Card:
        """The model card that `evaluate` wrote of this very bundle.

        Raises:
            StageError: there is none, or it is of another model.
        """
        from cxr_mm.evaluation.report.figures import read_card

        return Card(read_card(self._reports, self.task.name, self.digest)[1])

    def predict(
        self,
        image: ImageInput | None = None,
        clinical: Mapping[str, Any] | pd.Series | None = None,
        note: str | None = None,
        view: str | None = None,
        study_id: str | None = None,
        use_header: bool = False,
    ) -> Prediction:
        """Predict one study from any subset of image, clinical features and note.

        Args:
            image: a path, bytes, PIL image, array or pydicom dataset, see `ImageInput`.
            clinical: feature, or heading of its column → number in the task's unit, category, or
                None where not known.
            note: clinical note.
            view: view position, as PA or AP.
            study_id: id to answer with; one is made otherwise.
            use_header: use age, sex and view of a DICOM header where they are not given.

        Returns:
            Of each finding the calibrated probability in [0, 1], threshold, answer and certainty;
            `probabilities` has the first alone.

        Raises:
            RadiographError: the image cannot be read, or is no frontal chest radiograph.
            ClinicalError: there is no such feature; a value that cannot be used is a warning.
            NoteError: the note is too long or no text.
            InputError: nothing was given that the model uses, the image is of no known type, or
                the clinical values are no mapping.
        """
        study = self._study(image, clinical, note, view, study_id, use_header)
        return self.predictor.predict(study)

    def explain(
        self,
        image: ImageInput | None = None,
        clinical: Mapping[str, Any] | pd.Series | None = None,
        note: str | None = None,
        view: str | None = None,
        study_id: str | None = None,
        use_header: bool = False,
        *,
        findings: Sequence[str] = (),
        methods: Sequence[str] = (),
        seed: int = 0,
    ) -> "ExplainedStudy":
        """Explain the prediction of one study; a notebook draws the result.

        Args:
            image, clinical, note, view, study_id, use_header: as `predict` has them.
            findings: names or titles; none means all.
            methods: names out of docs/explain.md; none means the faithful ones, `all` every one.
            seed: of every random draw.

        Returns:
            Numbers as attributes: `prediction`, `explanations` (finding → shares of the modalities
            in logits and probability, attributions), `what_if`; `page()` and `write(folder)`.

        Raises:
            InputError: as `predict`; or there is no such finding or method.
        """
        from cxr_mm.explain.study import Question, explain_study

        study = self._study(image, clinical, note, view, study_id, use_header)
        question = Question(tuple(findings), tuple(methods), seed, self._faithfulness())
        return explain_study(self.predictor, study, question)

    def predict_frame(
        self,
        data: pd.DataFrame,
        *,
        images: FolderInput = None,
        use_header: bool = False,
        log: str | None = None,
        site: str = "",
        progress: bool = True,
    ) -> pd.DataFrame:
        """Predict every row of a table, as `cxr-mm score` does.

        Args:
            data: a row for each study, with the columns of a manifest CSV (docs/tasks.md): any of
                `image_path` (paths or images in memory), clinical features, note and view; the
                index stands for a missing `study_id`.
            images: folder that paths are relative to; None: the working directory.
            use_header: as `predict` has it.
            log: URL of a prediction log (docs/prediction_log.md), `sqlite:///predictions.db` for
                instance, that all predictions are added to at the end, for monitoring.
            site: name under which the log has them; empty where one site alone writes there.
            progress: whether to show a bar.

        Returns:
            A row for each row of `data`, in its order and with its index: `probability.NAME` in
            [0, 1], `threshold.NAME`, `positive.NAME`, `certainty.NAME` of each finding,
            `modalities`, `warnings`; `error` is the reason why a row has none of them. How many
            rows lack an answer, or were answered without their image, and why, is logged as a
            warning; that no image at all could be used, as an error.

        Raises:
            ManifestError: the table is empty, has no column of the task, or an id occurs twice.
            InputError: it is no DataFrame, or an image is of no known type or shape.
            LogError: the log cannot be opened or written.
        """
        codec, header = PredictionTable(self.task.finding_names), _header(use_header)
        rows: list[dict[str, Any]] = []
        answers: list[Answer] = []
        tally = Tally(self.task)
        with table_of(self.task, data, images) as csv:
            studies = iter_studies(self.task, csv, BATCH, header)
            found = answer_in_batches(self.predictor, studies)
            total = len(data)
            for one in tqdm(found, "predict", total, unit="study", disable=not progress):
                tally.add(one)
                if isinstance(one, BadRow):
                    rows.append({"study_id": one.study_id, ERROR: one.reason})
                else:
                    rows.append(codec.row(one.prediction))
                    answers += [one.without_pixels()] if log else []
        _warn_of_losses(tally, count_images(self.task, data))
        if log:
            _append(log, answers, site)
        schema = codec.schema(**{ERROR: pa.string()})
        frame: pd.DataFrame = pa.Table.from_pylist(rows, schema=schema).to_pandas()
        return frame.set_axis(data.index)

    def evaluate(
        self,
        data: pd.DataFrame,
        *,
        images: FolderInput = None,
        include_trained: bool = False,
        use_header: bool = False,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> Evaluation:
        """Evaluate on labelled studies, as `cxr-mm evaluate-on` does.

        Args:
            data: as `predict_frame` has it, with a column for each finding: 1, 0 or missing, or
                the task's own words; `patient_id` where patients have several studies.
            images, use_header: as `predict_frame` has them.
            include_trained: keep studies that the bundle was trained on, which are left out
                otherwise.
            bootstrap: resamples of patients behind each interval, 100 at least.
            seed: of the resamples.

        Raises:
            ManifestError: the table lacks a column or has no label, no row can be used, or the
                bundle was trained on all of them.
        """
        from cxr_mm.evaluation.external import validate
        from cxr_mm.evaluation.report.figures import METRICS_FILE

        params, header = EvaluateParams(bootstrap=bootstrap, seed=seed), _header(use_header)
        with table_of(self.task, data, images) as csv:
            out = csv.parent / "evaluation"
            validate.evaluate_on(self.predictor, csv, out, params, None, include_trained, header)
            bad = read_json(out / validate.BAD_ROWS_FILE)
            return Evaluation(
                metrics=read_json(out / METRICS_FILE),
                predictions=pd.read_parquet(out / validate.PREDICTIONS_FILE),
                bad_rows=pd.DataFrame(bad, columns=["study_id", "reason"]),
                summary=(out / validate.SUMMARY_FILE).read_text(encoding="utf-8"),
            )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the bundle into a new folder, which `load` and every command read.

        Raises:
            InputError: the folder exists.
            StorageError: it cannot be written.
        """
        check_absent(Path(folder))
        save_bundle(self.predictor.bundle, Path(folder))
        return Path(folder)

    def _study(
        self,
        image: ImageInput | None,
        clinical: Mapping[str, Any] | pd.Series | None,
        note: str | None,
        view: str | None,
        study_id: str | None,
        use_header: bool,
    ) -> Study:
        read = None if image is None else reader_of(image)
        values, header = _values(clinical), _header(use_header)
        return build_study(self.task, read, values, note, view, study_id, header=header)

    def _faithfulness(self) -> Path | None:
        """File of the figures of this very bundle, if it is there."""
        files = [folder / "faithfulness.json" for folder in self._reports]
        found = (f for f in files if f.is_file() and read_json(f).get("digest") == self.digest)
        return next(found, None)


def _warn_of_losses(tally: Tally, images: int) -> None:
    """Log what is missing from the answers; loudest, that none of the images was used."""
    if tally.bad or tally.lost:
        _log.warning("\n".join(tally.lines()))
    if images and not tally.images:
        _log.error(
            "none of the %s could be used: no answer is of an image", plural(images, "image")
        )


def _append(log: str, answers: Sequence[Answer], site: str) -> None:
    """Add answers to a prediction log, which is made where there is none."""
    from cxr_mm.prediction_log.log import open_log

    with open_log(log, site=site) as opened:
        opened.append_many(answers)


def _values(clinical: Any) -> Mapping[str, Any] | None:
    if isinstance(clinical, pd.Series):
        return {str(name): cell for name, cell in clinical.items()}
    if clinical is None or isinstance(clinical, Mapping):
        return clinical
    raise InputError(
        f"{type(clinical).__name__} is no mapping",
        field="clinical",
        remedy='Give a dict or a Series, as {"age": 63}',
    )


def _header(use_header: bool) -> HeaderUse:
    return "use" if use_header else "name"


def load(bundle: str | os.PathLike[str], *, accept_any_image: bool = False) -> Model:
    """Load a model.

    Args:
        bundle: folder of a bundle, `models/TASK/bundle` for instance, or a pointer to the current
            version, `serving/TASK/current.json`.
        accept_any_image: warn of an image that the input gate would reject.

    Raises:
        BundleError: no bundle is there, or it is damaged or of another version.
    """
    folder = resolved(Path(bundle).expanduser())
    predictor = load_predictor(folder, accept_any_image)
    return Model(predictor, reports_of(folder, predictor.bundle.task.name))
