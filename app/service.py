"""Inference service: from a user's inputs to a study, its answer and its explanation; no Gradio.

Images stay in memory only as long as the page that asked: the square that the model saw, and a
small copy to draw on.
"""

import contextvars
import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.metrics import Metrics
from app.model_watcher import ModelWatcher
from app.upload_cache import UploadCache
from cxr_mm.core.errors import CancelledError, CxrError, InputError, LogError, RadiographError
from cxr_mm.core.prediction import Answer, Reason
from cxr_mm.core.progress import NO_PROGRESS, Progress
from cxr_mm.core.record import Outcome, ServiceEvent
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.core.types import Modality
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.studies import build_study
from cxr_mm.explain.attribution import Attribution, Explanation, Target
from cxr_mm.explain.faithfulness.metrics import faithful_methods, verdict
from cxr_mm.explain.games import sentences
from cxr_mm.explain.html import coloured_note, feature_bars
from cxr_mm.explain.methods import METHODS, Ask, method, methods_of
from cxr_mm.explain.overlay import OPACITY, overlay
from cxr_mm.explain.study import Question, explain_study, measured
from cxr_mm.explain.subject import Subject, modality_shares
from cxr_mm.explain.what_if import probabilities_at
from cxr_mm.imaging.geometry import copy_to_draw, grey
from cxr_mm.imaging.radiograph import DecodedImage, Radiograph
from cxr_mm.inference.predictor import Predictor
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.registry import version_folder
from cxr_mm.prediction_log import PredictionLog

EXPLAINING = 2
"""Threads that explain, one for the page and one for programs: each thread that has run a network
keeps memory of its own for it, and those of the requests are many."""
AT_ONCE = 2
"""Predictions, each with a forward pass of its own: more would only share the processors."""
Kind = Literal["rejected_image", "bad_input", "failure"]
Source = Literal["page", "rest", "pacs"]
"""Way by which a study came: a reader at the page, a program, the node beside the PACS."""


@contextmanager
def logging_failed_requests(
    log: PredictionLog | None, task: Task, digest: str, source: Source, *, predicting: bool
) -> Iterator[None]:
    """Log an error that the body raises, and raise it again.

    Args:
        log: where; None keeps nothing.
        task, digest: of the model.
        source: where the request came from.
        predicting: whether the body runs the model, which may reject the image.
    """
    try:
        yield
    except CancelledError:
        raise
    except Exception as error:
        log_failed_request(log, task, digest, source, error, predicting=predicting)
        raise


def log_failed_request(
    log: PredictionLog | None,
    task: Task,
    digest: str,
    source: Source,
    error: Exception,
    *,
    predicting: bool,
) -> None:
    """Log one failed request; if the log fails too, the request is lost and nothing else."""
    if log is None:
        return
    event = ServiceEvent(
        created_at=log.clock(),
        task=task.name,
        digest=digest,
        kind=_kind(error, predicting),
        field=_field(error, task),
        source=source,
        site=log.site,
    )
    with suppress(LogError):
        log.add_events([event])


def _kind(error: Exception, predicting: bool) -> Kind:
    if not isinstance(error, InputError):
        return "failure"
    return "rejected_image" if predicting and isinstance(error, RadiographError) else "bad_input"


def _field(error: Exception, task: Task) -> str:
    """The field at fault, if it is a name of the task's own: others may hold what was typed."""
    field = error.field if isinstance(error, CxrError) else ""
    return field if field in {"image", "note", "view", *task.clinical_names} else ""


@dataclass(frozen=True)
class StudySession:
    """One answered study, as the page keeps it.

    Args:
        subject: the study as the model has encoded it; it has no image file's pixels.
        image: float32 (H, W) for drawing, in the image's own aspect; None without an image.
        answer: what the model said; its study carries no image.
        explanations: finding → modality shares.
        log_trouble: what a person should know of the log; empty where there is nothing.
        reason: of the operating point that the reader chose; None for the bundle's own.
        stop: set to end a long explanation.
    """

    subject: Subject
    image: NDArray[np.float32] | None
    answer: Answer
    explanations: dict[str, Explanation]
    log_trouble: str = ""
    reason: Reason | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def study(self) -> Study:
        """What was handed in."""
        return self.subject.study


class InferenceService:
    """Answers and explains studies with one model, and logs what it answered.

    Args:
        predictor: the model, or the one that a pointer names; what one model began, it ends.
        log: where predictions and feedback go; None keeps none.
        uploads: reads uploaded images; None decodes them in this process.
        source: of its studies, for the log; the ids of `pacs` are unique, and a study that the same
            model answers again is logged once.
        of_node: whether a study came by the node beside the PACS: what the node has logged of it
            is not logged again.
        at_once: predictions that a queue lets begin before others have ended.
    """

    def __init__(
        self,
        predictor: Predictor | ModelWatcher,
        log: PredictionLog | None,
        uploads: UploadCache | None = None,
        source: Source = "page",
        of_node: Callable[[str], bool] = lambda _study_id: False,
        at_once: int = AT_ONCE,
    ) -> None:
        self._model, self.log, self._source = predictor, log, source
        self._of_node, self.at_once = of_node, at_once
        self._uploads = uploads or UploadCache()
        self.task = self.bundle.task
        self._figures: dict[str, dict[str, Any]] = {}

    @property
    def predictor(self) -> Predictor:
        """The model that serves now."""
        return self._model.now() if isinstance(self._model, ModelWatcher) else self._model

    @property
    def bundle(self) -> Bundle:
        """Of the model that serves now."""
        return self.predictor.bundle

    @property
    def digest(self) -> str:
        """Of the model that serves now."""
        return self.bundle.digest

    @property
    def trouble(self) -> str:
        """Why another model serves than the one pointed to; empty where none does."""
        return self._model.trouble if isinstance(self._model, ModelWatcher) else ""

    @property
    def figures(self) -> dict[str, Any]:
        """How far each method of explanation is faithful, where that was measured."""
        digest = self.digest
        if digest not in self._figures:
            own = version_folder(self.task.name, digest) / "reports" / "faithfulness.json"
            found = measured(self.task.name, digest, own if own.is_file() else None)
            self._figures = {digest: found}
        return self._figures[digest]

    def pinned(self) -> Self:
        """This service, with the model that serves now for good: for work of many steps."""
        service = copy.copy(self)
        service._model = self.predictor
        return service

    def of_source(self, source: Source) -> Self:
        """This service, for studies that come by another way."""
        service = copy.copy(self)
        service._source = source
        return service

    def image(self, path: str, session: str | None = None) -> DecodedImage:
        """Read an uploaded file, once for all requests of a session in which it does not change.

        Raises:
            RadiographError: it is no readable radiograph.
        """
        return self._uploads.read(Path(path), Path(path).name, session)

    def study(
        self,
        image: str | Radiograph | None,
        clinical: Mapping[str, Any],
        note: str | None,
        view: str | None = None,
        study_id: str | None = None,
        patient_id: str | None = None,
        session: str | None = None,
    ) -> Study:
        """Build a checked study from what was entered.

        Args:
            image: an uploaded file, or what was read of one.
            clinical, note, view, study_id, patient_id: as `build_study`.
            session: as `image`.

        Raises:
            RadiographError, ClinicalError, NoteError: of the input at fault; of a clinical value
                only where nothing else was entered.
            InputError: nothing was entered that the model reads.
        """
        with self._keeping(predicting=False):
            read = partial(self._radiograph, image, session) if image else None
            study = build_study(self.task, read, clinical, note, view, study_id, patient_id)
            faults = check_clinical(self.task.clinical, study.clinical).faults
            if faults and not study.modalities:
                raise faults[0]
        if not study.modalities:
            raise InputError(
                "Nothing was given yet", remedy="Give an image, a clinical feature or a note"
            )
        return study

    def _radiograph(self, image: str | Radiograph, session: str | None) -> Radiograph:
        return self.image(image, session).radiograph if isinstance(image, str) else image

    def answer(self, study: Study, drawn: NDArray[np.float32] | None = None) -> StudySession:
        """Predict a study with modality shares, and log it; the answer stands if the log fails.

        Args:
            study: what was handed in.
            drawn: `copy_to_draw` of its image, where that was fitted for the model before.

        Raises:
            InputError: the study cannot be read.
        """
        predictor = self.predictor  # one for all of it, whatever is pointed to meanwhile
        with self._keeping(predicting=True):
            answer = predictor.answer_one(study)
        stored = answer.without_pixels()
        trouble = self.logged([stored])
        if drawn is None and study.image is not None:
            drawn = copy_to_draw(study.image)
        subject = Subject.of(predictor.bundle, replace(answer, study=stored.study))
        return StudySession(subject, drawn, stored, modality_shares(subject), trouble)

    def refused(self, error: InputError) -> None:
        """Log that the model rejected a study."""
        log_failed_request(self.log, self.task, self.digest, self._source, error, predicting=True)

    def _keeping(self, *, predicting: bool) -> AbstractContextManager[None]:
        return logging_failed_requests(
            self.log, self.task, self.digest, self._source, predicting=predicting
        )

    def at(self, session: StudySession, reason: Reason | None) -> StudySession:
        """The same answer at another operating point; None for the bundle's own."""
        bundle = session.subject.bundle
        result = Predictor(bundle).at(session.answer.prediction, reason or bundle.decision)
        return replace(session, answer=replace(session.answer, prediction=result), reason=reason)

    def usual(self, modality: Modality) -> str:
        """The method that a modality is explained by where none is asked for: a faithful
        one, if there is one."""
        fit = [
            name for name in faithful_methods(self.figures) if METHODS[name].modality == modality
        ]
        return fit[0] if fit else methods_of(modality)[0].name

    def explained(
        self, session: StudySession, finding: str, name: str, watch: Progress = NO_PROGRESS
    ) -> Attribution | None:
        """What a method says of the image for one finding; None without an image.

        Raises:
            InputError: the task has no such finding, or there is no such method.
            CancelledError: the watch says so.
        """
        if session.image is None:
            return None
        return method(name).explain(session.subject, Target(finding), Ask(watch=watch))

    def drawn(
        self, session: StudySession, attribution: Attribution | None, opacity: float = OPACITY
    ) -> NDArray[np.uint8] | None:
        """The image with an explanation of `explained` over it."""
        if session.image is None:
            return None
        if attribution is None or attribution.extra.get("empty"):
            return grey(session.image)
        return overlay(
            session.image, attribution.values, signed=attribution.signed, opacity=opacity
        )

    def caption(self, attribution: Attribution | None) -> str:
        """How to read an explanation of `explained`, and how faithful it is."""
        if attribution is None:
            return "No image was given, so there is nothing to show where."
        if attribution.extra.get("empty"):
            return "No region of the image speaks for this finding."
        fit = f" Local fit R² {attribution.extra['r2']:.2f}." if "r2" in attribution.extra else ""
        if attribution.extra.get("readable") is False:
            fit += " That is too low: do not read this one."
        return (
            f"{METHODS[attribution.method].reading}{fit} {self.faithfulness_of(attribution.method)}"
        )

    def faithfulness_of(self, name: str) -> str:
        """Say in a sentence how faithful a method is."""
        return verdict(self.figures.get(name))

    def explanation(self, study: Study, question: Question, out: Path) -> Path:
        """A study explained into a folder, as `ExplainedStudy.write` does."""
        return explain_study(self.predictor, study, question).write(out)

    def moved(self, session: StudySession, values: Mapping[str, Any]) -> dict[str, float]:
        """The probability of each finding if some clinical features were others.

        Raises:
            ClinicalError: a value cannot be used.
        """
        checked = check_clinical(self.task.clinical, {**session.study.clinical, **values})
        if checked.faults:
            raise checked.faults[0]
        chances = probabilities_at(session.subject, checked)
        return dict(zip(self.task.finding_names, chances, strict=True))

    def details(self, session: StudySession, finding: str) -> tuple[str, str]:
        """Bars of the clinical features, and the note with its words coloured, as HTML; empty where
        the study has none.

        Raises:
            InputError: the task has no such finding.
        """
        subject, target = session.subject, Target(finding)
        bars = words = ""
        if "tabular" in subject.present:
            result = METHODS[self.usual("tabular")].explain(subject, target, Ask())
            values = subject.encoded.clinical[0]
            bars = feature_bars(self.task, result, values, subject.bundle.background)
        if "note" in subject.present and sentences(subject.note):
            words = coloured_note(METHODS[self.usual("note")].explain(subject, target, Ask()))
        return bars, words

    def feedback(self, outcomes: Sequence[Outcome]) -> None:
        """Log a reader's feedback.

        Raises:
            LogError: no log is kept, or it cannot be written.
        """
        if self.log is None:
            raise LogError("no log is kept", field="feedback")
        self.log.add_outcomes(outcomes)

    def logged(self, answers: Sequence[Answer]) -> str:
        """Log answers; returns a warning for the user, empty where all went well."""
        if self.log is None or not answers:
            return ""
        try:
            for source, part in self._by_source(answers).items():
                self.log.append_many(part, source, once=source == "pacs")
        except LogError as error:
            return f"Not logged. {error}"
        return self.log.trouble

    def _by_source(self, answers: Sequence[Answer]) -> dict[Source, list[Answer]]:
        found: dict[Source, list[Answer]] = {}
        for answer in answers:
            source = "pacs" if self._of_node(answer.study.study_id) else self._source
            found.setdefault(source, []).append(answer)
        return found


T = TypeVar("T")


class InstrumentedService(InferenceService):
    """An inference service that counts and times its work."""

    def __init__(
        self,
        predictor: Predictor | ModelWatcher,
        log: PredictionLog | None,
        metrics: Metrics,
        uploads: UploadCache | None = None,
        source: Source = "page",
        of_node: Callable[[str], bool] = lambda _study_id: False,
        at_once: int = AT_ONCE,
    ) -> None:
        super().__init__(predictor, log, uploads, source, of_node, at_once)
        self.metrics = metrics
        self._explaining = ThreadPoolExecutor(EXPLAINING, thread_name_prefix="explain")

    def study(self, *args: Any, **options: Any) -> Study:
        with self.metrics.failing("study", self.task.name):
            return super().study(*args, **options)

    def answer(self, *args: Any, **options: Any) -> StudySession:
        with self.metrics.timed("prediction", self.task.name):
            return super().answer(*args, **options)

    def logged(self, answers: Sequence[Answer]) -> str:
        # Every answer passes here, also those of a worklist and where no log is kept.
        self.metrics.count("prediction", self.task.name, len(answers))
        return super().logged(answers)

    def explained(self, *args: Any, **options: Any) -> Attribution | None:
        return self._counted("explanation", self._apart(super().explained), *args, **options)

    def explanation(self, *args: Any, **options: Any) -> Path:
        return self._counted("explanation", self._apart(super().explanation), *args, **options)

    def details(self, *args: Any, **options: Any) -> tuple[str, str]:
        return self._counted("explanation", self._apart(super().details), *args, **options)

    def moved(self, *args: Any, **options: Any) -> dict[str, float]:
        return self._counted("what_if", super().moved, *args, **options)

    def feedback(self, outcomes: Sequence[Outcome]) -> None:
        return self._counted("feedback", super().feedback, outcomes)

    def _apart(self, explain: Callable[..., T]) -> Callable[..., T]:
        """The work in a thread of its own kind; progress goes to the caller's page."""

        def run(*args: Any, **options: Any) -> T:
            context = contextvars.copy_context()
            return self._explaining.submit(context.run, explain, *args, **options).result()

        return run

    def _counted(self, kind: str, created: Callable[..., T], *args: Any, **options: Any) -> T:
        with self.metrics.timed(kind, self.task.name):
            result = created(*args, **options)
        self.metrics.count(kind, self.task.name)
        return result
