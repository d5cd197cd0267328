"""Reading: from what a person handed in to a study, its answer and its explanation; no Gradio.

Films stay in memory only as long as the page that asked: the square that the model saw, and a
small copy to draw on.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_mm.contracts.answer import Answer
from cxr_mm.contracts.explanation import Explanation, Target
from cxr_mm.contracts.study import Study
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.radiograph import Radiograph, read_radiograph
from cxr_mm.data.transform import fit_square
from cxr_mm.errors import InputError, LogError
from cxr_mm.explain import render
from cxr_mm.explain.faithfulness.words import believed, verdict
from cxr_mm.explain.film import shrunk
from cxr_mm.explain.fragments import coloured_note, feature_bars
from cxr_mm.explain.methods import METHODS, Ask, method, methods_of
from cxr_mm.explain.note_units import sentences
from cxr_mm.explain.one import measured
from cxr_mm.explain.shares import modality_shares
from cxr_mm.explain.subject import Subject
from cxr_mm.explain.watch import UNWATCHED, Watch
from cxr_mm.inference import Predictor
from cxr_mm.prediction_log import PredictionLog


@dataclass(frozen=True)
class Shown:
    """One answered study, as the page keeps it.

    Args:
        study: the study with its film already fitted into the model's square.
        film: float32 (H, W) for drawing, in the film's own aspect; None without a film.
        answer: what the model said; its study carries no film.
        explanations: finding → modality shares.
        log_trouble: why the prediction could not be logged; empty where it was, or no log is kept.
    """

    study: Study
    film: NDArray[np.float32] | None
    answer: Answer
    explanations: dict[str, Explanation]
    log_trouble: str = ""


class ReadingRoom:
    """Answers and explains studies with one model, and logs what it answered."""

    def __init__(self, predictor: Predictor, log: PredictionLog | None) -> None:
        self.predictor, self.log = predictor, log
        self.bundle = predictor.bundle
        self.task = predictor.bundle.task
        self.figures = measured(self.task.name, self.bundle.digest, None)
        """How far each method of explanation can be believed, where that was measured."""

    def film(self, path: str) -> Radiograph:
        """Read an uploaded file.

        Raises:
            RadiographError: it is no readable radiograph.
        """
        return read_radiograph(Path(path), Path(path).name)

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
        film = self.film(path) if path and self.task.has_image else None
        values = check_clinical(self.task.clinical, clinical)
        asked = values.get("view")
        view = view or (asked if isinstance(asked, str) else None) or (film.view if film else None)
        text = note.strip() if note and self.task.note else ""
        study = Study(
            study_id=(study_id or "").strip() or f"app-{uuid.uuid4()}",
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
        answer = self.predictor.answer([study])[0]
        trouble = self._logged(answer)
        film, small = None, study
        if study.image is not None:
            film = shrunk(study.image, render.LONGEST)
            square = fit_square(study.image, self.bundle.size).astype(np.float32) / np.float32(255)
            small = replace(study, image=square)
        kept = replace(answer, study=replace(study, image=None))
        explanations = modality_shares(Subject(self.bundle, small))
        return Shown(small, film, kept, explanations, trouble)

    def film_method(self) -> str:
        """The method that the film is explained by where none is asked for."""
        usual = [name for name in believed(self.figures) if METHODS[name].modality == "image"]
        return usual[0] if usual else methods_of("image")[0].name

    def overlay(
        self, shown: Shown, finding: str, name: str, watch: Watch = UNWATCHED
    ) -> tuple[NDArray[np.uint8] | None, str]:
        """What a method says of the film for one finding, drawn over it, and how to read it.

        Raises:
            InputError: the task has no such finding, or there is no such method.
            CancelledError: the watch says so.
        """
        if shown.film is None:
            return None, "No film was given, so there is nothing to show where."
        chosen, subject = method(name), Subject(self.bundle, shown.study)
        said = chosen.explain(subject, Target(finding), Ask(watch=watch))
        if said.extra.get("empty"):
            return render.grey(shown.film), "No region of the film speaks for this finding."
        drawn = render.overlay(shown.film, said.values, signed=said.signed)
        fit = f" Local fit R² {said.extra['r2']:.2f}." if "r2" in said.extra else ""
        return drawn, f"{chosen.reading}{fit} {verdict(self.figures.get(name))}"

    def details(self, shown: Shown, finding: str) -> tuple[str, str]:
        """Bars of the clinical features, and the note with its words coloured, as HTML; empty where
        the study has none.

        Raises:
            InputError: the task has no such finding.
        """
        subject, target = Subject(self.bundle, shown.study), Target(finding)
        bars = words = ""
        if "tabular" in subject.present:
            said = METHODS["shap_tabular"].explain(subject, target, Ask())
            values = self.bundle.check(shown.study)
            bars = feature_bars(self.task, said, values, self.bundle.background)
        if "note" in subject.present and sentences(subject.note):
            words = coloured_note(METHODS["shap_note"].explain(subject, target, Ask()))
        return bars, words

    def _logged(self, answer: Answer) -> str:
        if self.log is None:
            return ""
        try:
            self.log.append(answer)
        except LogError as error:
            return str(error)
        return ""
