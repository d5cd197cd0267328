"""Feedback panel: whether the reader agrees, which label is right, a comment → the log."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from app.feedback import ABSENT, NOT_SURE, PRESENT, Verdict, outcomes_of
from app.service import InferenceService, StudySession
from app.ui import answer
from app.ui.theme import READING
from cxr_mm.core.errors import InputError, LogError
from cxr_mm.core.record import LONGEST_COMMENT

THANKS = "Stored. Later feedback on the same study replaces it."


@dataclass(frozen=True)
class FeedbackPanel:
    """The parts."""

    box: Any
    verdict: Any
    labels: list[Any]
    comment: Any
    send: Any
    status: Any


def build(service: InferenceService) -> FeedbackPanel:
    """Place the feedback where the page stands; hidden where no log is kept."""
    with gr.Accordion("Your assessment", open=False, visible=service.log is not None) as box:
        verdict = gr.Radio(
            [("I agree", "agree"), ("I disagree", "disagree")],
            label="The answer",
            value="agree",
        )
        with gr.Row(visible=False) as row:
            labels = [
                gr.Radio([PRESENT, ABSENT, NOT_SURE], value=NOT_SURE, label=finding.title)
                for finding in service.task.findings
            ]
        comment = gr.Textbox(
            label="Comment (optional)",
            info="Kept in the log as it is: no names or other identifiers.",
            max_length=LONGEST_COMMENT,
            lines=2,
        )
        send = gr.Button("Send", size="sm")
        result = gr.HTML()
    verdict.change(lambda v: gr.update(visible=v == "disagree"), verdict, row, **READING)
    return FeedbackPanel(box, verdict, labels, comment, send, result)


def bind_events(service: InferenceService, part: FeedbackPanel, state: Any) -> None:
    """Wire the button."""
    part.send.click(
        partial(on_send, service),
        [state, part.verdict, part.comment, *part.labels],
        part.status,
        **READING,
    )


def on_send(
    service: InferenceService,
    session: StudySession | None,
    verdict: Verdict,
    comment: str | None,
    *labels: str,
) -> str:
    """Store the reader's assessment of the answer on show."""
    if session is None or service.log is None:
        return answer.fault("There is no answer to assess. Predict first.")
    given = dict(zip(service.task.finding_names, labels, strict=True))
    try:
        outcomes = outcomes_of(
            session.answer.prediction,
            service.task,
            verdict,
            given,
            comment or "",
            service.log.hash_id,
        )
        service.feedback(outcomes)
    except (InputError, LogError) as error:
        return answer.fault(str(error))
    return answer.piece("status", THANKS)
