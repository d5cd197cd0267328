"""Reading: from what a person handed in to a study, its answer and its explanation; no Gradio.

Films stay in memory only as long as the page that asked: the square that the model saw, and a
small copy to draw on.
"""

import copy
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from app.following import Followed
from app.unanswered import keep_unanswered, kept_unanswered
from cxr_mm.contracts.answer import Answer
from cxr_mm.contracts.explanation import Attribution, Explanation, Target
from cxr_mm.contracts.modality import Modality
from cxr_mm.contracts.prediction import Reason
from cxr_mm.contracts.record import Outcome
from cxr_mm.contracts.study import Study
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.radiograph import Film, read_film
from cxr_mm.data.transform import fitted_study
from cxr_mm.errors import InputError, LogError
from cxr_mm.explain import render
from cxr_mm.explain.faithfulness.words import believed, verdict
from cxr_mm.explain.film import shrunk
from cxr_mm.explain.fragments import coloured_note, feature_bars
from cxr_mm.explain.methods import METHODS, Ask, method, methods_of
from cxr_mm.explain.note_units import sentences
from cxr_mm.explain.one import Question, explain_to, measured
from cxr_mm.explain.shares import modality_shares
from cxr_mm.explain.subject import Subject
from cxr_mm.explain.watch import UNWATCHED, Watch
from cxr_mm.explain.what_if import moved
from cxr_mm.inference import Predictor
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.pointer import version_folder
from cxr_mm.prediction_log import PredictionLog

MADE_UP = "app-"
"""How a study id begins that nobody typed in."""
ReadFilm = Callable[[Path, str], Film]


@dataclass(frozen=True)
class Shown:
    """One answered study, as the page keeps it.

    Args:
        subject: the study, its film already fitted into the model's square, with what the model has
            made of it.
        film: float32 (H, W) for drawing, in the film's own aspect; None without a film.
        answer: what the model said; its study carries no film.
        explanations: finding → modality shares.
        log_trouble: what a person should know of the log; empty where there is nothing.
        reason: of the operating point that the reader chose; None for the bundle's own.
        stop: set to end a long explanation.
    """

    subject: Subject
    film: NDArray[np.float32] | None
    answer: Answer
    explanations: dict[str, Explanation]
    log_trouble: str = ""
    reason: Reason | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def study(self) -> Study:
        """What was handed in."""
        return self.subject.study


class ReadingRoom:
    """Answers and explains studies with one model, and logs what it answered.

    Args:
        predictor: the model, or the one that a pointer names; what one model began, it ends.
        log: where predictions and feedback go; None keeps none.
        read: reads uploaded films.
    """

    def __init__(
        self, predictor: Predictor | Followed, log: PredictionLog | None, read: ReadFilm = read_film
    ) -> None:
        self._model, self.log, self._read = predictor, log, read
        self.task = self.bundle.task
        self._figures: dict[str, dict[str, Any]] = {}

    @property
    def predictor(self) -> Predictor:
        """The model that serves now."""
        return self._model.now() if isinstance(self._model, Followed) else self._model

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
        return self._model.trouble if isinstance(self._model, Followed) else ""

    @property
    def figures(self) -> dict[str, Any]:
        """How far each method of explanation can be believed, where that was measured."""
        digest = self.digest
        if digest not in self._figures:
            own = version_folder(self.task.name, digest) / "reports" / "faithfulness.json"
            found = measured(self.task.name, digest, own if own.is_file() else None)
            self._figures = {digest: found}
        return self._figures[digest]

    def pinned(self) -> Self:
        """This room, with the model that serves now for good: for work of many steps."""
        room = copy.copy(self)
        room._model = self.predictor
        return room

    def film(self, path: str) -> Film:
        """Read an uploaded file.

        Raises:
            RadiographError: it is no readable radiograph.
        """
        return self._read(Path(path), Path(path).name)

    def study(
        self,
        path: str | None,
        clinical: Mapping[str, Any],
        note: str | None,
        view: str | None = None,
        study_id: str | None = None,
    ) -> Study:
        """What was entered, as a checked study.

        Raises:
            RadiographError, ClinicalError: of the input at fault.
            InputError: nothing was entered that the model reads.
        """
        with self._keeping(asked=False):
            film = self.film(path).radiograph if path and self.task.has_image else None
            values = check_clinical(self.task.clinical, clinical)
        asked = values.get("view")
        view = view or (asked if isinstance(asked, str) else None) or (film.view if film else None)
        text = note.strip() if note and self.task.note else ""
        study = Study(
            study_id=(study_id or "").strip() or f"{MADE_UP}{uuid.uuid4()}",
            image=film.pixels if film else None,
            clinical=values,
            note=text or None,
            view=view,
            warnings=film.warnings if film else (),
            quality=film.quality if film else {},
        )
        if not study.modalities:
            raise InputError(
                "Nothing was given yet", remedy="Give a film, a clinical feature or a note"
            )
        return study

    def answer(self, study: Study) -> Shown:
        """Predict, share out, and log; a log that fails does not take the answer away.

        Raises:
            InputError: the study cannot be read.
        """
        predictor = self.predictor  # one for all of it, whatever is pointed to meanwhile
        with self._keeping(asked=True):
            answer = predictor.answer([study])[0]
        trouble = self.logged([answer])
        film = None if study.image is None else shrunk(study.image, render.LONGEST)
        kept = replace(answer, study=replace(study, image=None))
        square = fitted_study(study, predictor.bundle.size)
        subject = Subject(predictor.bundle, square, answer.image_embedding)
        return Shown(subject, film, kept, modality_shares(subject), trouble)

    def refused(self, error: InputError) -> None:
        """Keep in the log that the model refused a study that it was asked about."""
        keep_unanswered(self.log, self.task, self.digest, error, asked=True)

    def _keeping(self, *, asked: bool) -> AbstractContextManager[None]:
        return kept_unanswered(self.log, self.task, self.digest, asked=asked)

    def at(self, shown: Shown, reason: Reason | None) -> Shown:
        """The same answer at another operating point; None for the bundle's own."""
        bundle = shown.subject.bundle
        said = Predictor(bundle).at(shown.answer.prediction, reason or bundle.decision)
        return replace(shown, answer=replace(shown.answer, prediction=said), reason=reason)

    def usual(self, modality: Modality) -> str:
        """The method that a modality is explained by where none is asked for: one that may be
        believed, if there is one."""
        fit = [name for name in believed(self.figures) if METHODS[name].modality == modality]
        return fit[0] if fit else methods_of(modality)[0].name

    def explained(
        self, shown: Shown, finding: str, name: str, watch: Watch = UNWATCHED
    ) -> Attribution | None:
        """What a method says of the film for one finding; None without a film.

        Raises:
            InputError: the task has no such finding, or there is no such method.
            CancelledError: the watch says so.
        """
        if shown.film is None:
            return None
        return method(name).explain(shown.subject, Target(finding), Ask(watch=watch))

    def drawn(
        self, shown: Shown, said: Attribution | None, opacity: float = render.OPACITY
    ) -> NDArray[np.uint8] | None:
        """The film with an explanation of `explained` over it."""
        if shown.film is None:
            return None
        if said is None or said.extra.get("empty"):
            return render.grey(shown.film)
        return render.overlay(shown.film, said.values, signed=said.signed, opacity=opacity)

    def caption(self, said: Attribution | None) -> str:
        """How to read an explanation of `explained`, and how far it can be believed."""
        if said is None:
            return "No film was given, so there is nothing to show where."
        if said.extra.get("empty"):
            return "No region of the film speaks for this finding."
        fit = f" Local fit R² {said.extra['r2']:.2f}." if "r2" in said.extra else ""
        if said.extra.get("readable") is False:
            fit += " That is too low: do not read this one."
        return f"{METHODS[said.method].reading}{fit} {self.believed(said.method)}"

    def believed(self, name: str) -> str:
        """How far a method can be believed, in a sentence."""
        return verdict(self.figures.get(name))

    def explanation(self, study: Study, question: Question, out: Path) -> Path:
        """A study explained into a folder, as `explain_to` does."""
        return explain_to(self.predictor, study, question, out)

    def moved(self, shown: Shown, values: Mapping[str, Any]) -> dict[str, float]:
        """The probability of each finding if some clinical features were others.

        Raises:
            ClinicalError: a value is refused.
        """
        checked = check_clinical(self.task.clinical, {**shown.study.clinical, **values})
        chances = moved(shown.subject, checked)
        return dict(zip(self.task.finding_names, chances, strict=True))

    def details(self, shown: Shown, finding: str) -> tuple[str, str]:
        """Bars of the clinical features, and the note with its words coloured, as HTML; empty where
        the study has none.

        Raises:
            InputError: the task has no such finding.
        """
        subject, target = shown.subject, Target(finding)
        bars = words = ""
        if "tabular" in subject.present:
            said = METHODS[self.usual("tabular")].explain(subject, target, Ask())
            values = subject.bundle.check(shown.study)
            bars = feature_bars(self.task, said, values, subject.bundle.background)
        if "note" in subject.present and sentences(subject.note):
            words = coloured_note(METHODS[self.usual("note")].explain(subject, target, Ask()))
        return bars, words

    def feedback(self, outcomes: Sequence[Outcome]) -> None:
        """Keep what a reader says.

        Raises:
            LogError: no log is kept, or it cannot be written.
        """
        if self.log is None:
            raise LogError("no log is kept", field="feedback")
        self.log.add_outcomes(outcomes)

    def logged(self, answers: Sequence[Answer]) -> str:
        """Log some answers; what a person should know of it, empty where all went well."""
        if self.log is None or not answers:
            return ""
        try:
            self.log.append_many(answers)
        except LogError as error:
            return f"Not logged. {error}"
        return self.log.trouble
