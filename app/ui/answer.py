"""Answer: the prediction of one study as HTML, and the choice of its operating point."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr
from markupsafe import Markup

from app.service import InferenceService, StudySession
from app.ui.theme import READING
from cxr_mm.core.prediction import NOTICE, SYNTHETIC, OperatingPoint, Prediction, Reason
from cxr_mm.core.task import Task
from cxr_mm.core.templates import macro
from cxr_mm.data.notes import MASK
from cxr_mm.explain.html import NAMES, probability_bar
from cxr_mm.models.bundle import Bundle


def piece(name: str, *values: Any) -> Markup:
    """Call a macro of the page's template; values that are not Markup are escaped."""
    return macro(name, *values, template="app.html").strip()


def quiet(text: str) -> Markup:
    """A line of small print."""
    return macro("quiet", text)


def fault(message: str) -> Markup:
    """A message beside the field it is about; empty takes it away."""
    return piece("fault", message)


EMPTY = quiet("The answer appears here. Any of the inputs may be left out.")


def notices(task: Task) -> Markup:
    """Notices that stay in sight however far the page is scrolled."""
    return piece("notices", NOTICE, SYNTHETIC if task.synthetic else "")


def header(bundle: Bundle, others: Sequence[tuple[str, str]] = ()) -> Markup:
    """The question, which model answers it, whether images are checked, and links to other pages
    (title, address)."""
    return piece("header", bundle.task.title, bundle.name, bundle.digest, others, bundle.unchecked)


def answer(bundle: Bundle, session: StudySession) -> Markup:
    """Warnings first, then each finding with its operating point, then what was used."""
    prediction = session.answer.prediction
    trouble = [session.log_trouble] if session.log_trouble else []
    return Markup().join(
        [
            piece("warnings", [*prediction.warnings, *trouble]),
            *bars(session),
            uncertainty(prediction),
            piece("used", inputs(bundle.task, prediction)),
        ]
    )


def bars(session: StudySession) -> list[Markup]:
    """The probability of each finding as a bar with its operating point."""
    prediction, point = session.answer.prediction, session.subject.bundle.operating_point
    return [
        probability_bar(found, point(found.finding, prediction.modalities, session.reason))
        for found in prediction.findings
    ]


def uncertainty(prediction: Prediction) -> Markup:
    """What "uncertain" means, where a finding is."""
    uncertain = [f.title for f in prediction.findings if f.certainty == "uncertain"]
    return piece("uncertainty", uncertain, prediction.coverage, bool(prediction.classes))


def inputs(task: Task, prediction: Prediction) -> list[tuple[str, bool]]:
    """The task's inputs by name, and whether the model used each."""
    return [(NAMES[m], m in prediction.modalities) for m in task.modalities]


def masked_note(masked: str) -> Markup:
    """The note as the model reads it, what is masked marked."""
    return piece("masked_note", masked.split(MASK), MASK)


def build(service: InferenceService, state: Any, answer: Any) -> Any:
    """Place the choice of operating point, which needs no new prediction.

    Args:
        service: whose model it is.
        state: holds the answer on show.
        answer: where it is shown.
    """
    own, choices = service.bundle.decision, []
    for reason, point in _points(service.bundle).items():
        usual = " (usual)" if reason == own else ""
        choices.append((f"{point.criterion}{usual}", reason))
    choice = gr.Dropdown(
        choices,
        value=own if choices else None,
        label="Operating point",
        info="From which probability on a finding is called positive.",
        filterable=False,
        visible=service.task.problem != "multiclass",
    )
    given = {"inputs": [state, choice], "outputs": [state, answer], **READING}
    choice.input(partial(on_reason, service), show_progress="hidden", **given)
    return choice


def _points(bundle: Bundle) -> Mapping[Reason, OperatingPoint]:
    """Operating points of one finding, whose criteria are those of all; none of classes."""
    for findings in bundle.operating_points.values():
        for points in findings.values():
            return points
    return {}


def on_reason(
    service: InferenceService, session: StudySession | None, reason: Reason
) -> tuple[Any, Any]:
    """Another operating point was chosen."""
    if session is None:
        return gr.skip(), gr.skip()
    moved = service.at(session, reason)
    return moved, answer(service.bundle, moved)
