"""API: predictions, explanations and feedback for programs, through Gradio's own client."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Self

import gradio as gr
from gradio.data_classes import FileData

from app.calls import explain, feedback, predict
from app.service import InferenceService
from app.ui.theme import EXPLANATION, READING, prediction_queue
from cxr_mm.core.errors import CxrError, InputError

PUBLIC = {"api_visibility": "public"}


class _Uploaded(FileData):  # type: ignore[misc]
    """A file that was uploaded; a path as plain text is refused with what to write instead."""

    @classmethod
    def model_validate(cls, given: Any, **options: Any) -> Self:
        # Not in a validator: pydantic would make an error of its own of this one.
        if not isinstance(given, Mapping):
            error = InputError(
                f"{str(given)[:80]!r} is text, not a file",
                field="image",
                remedy='Write image=handle_file("image.png"), from gradio_client',
            )
            raise gr.Error(str(error), print_exception=False)
        result: Self = super().model_validate(given, **options)
        return result


def build(service: InferenceService) -> None:
    """The three calls, inside a Blocks; nothing of them is seen on the page."""
    service = service.of_source("rest")
    with gr.Column(visible=False):
        image = gr.File(label="image", type="filepath")
        image.data_model = _Uploaded
        clinical = gr.JSON(label="clinical")
        names = ("note", "view", "study_id", "patient_id")
        note, view, study_id, patient_id = (gr.Textbox(label=name) for name in names)
        findings, methods = gr.JSON(label="findings"), gr.JSON(label="methods")
        prediction, labels = gr.JSON(label="prediction"), gr.JSON(label="labels")
        verdict, comment = gr.Textbox(label="verdict"), gr.Textbox(label="comment")
        answer = gr.JSON(label="answer")
        button = gr.Button("API")
    study = [image, clinical, note, view, study_id]
    for name, call, inputs, queue in (
        ("predict", predict, [*study, patient_id], prediction_queue(service)),
        ("explain", explain, [*study, findings, methods], EXPLANATION),
        ("feedback", feedback, [prediction, verdict, labels, comment], READING),
    ):
        button.click(_answer_call(call, service), inputs, answer, api_name=name, **(queue | PUBLIC))


def _answer_call(
    call: Callable[..., dict[str, Any]], service: InferenceService
) -> Callable[..., dict[str, Any]]:
    """Wrap a call so that its errors become Gradio's own, whose messages alone reach a client."""

    def call_answered(*given: Any) -> dict[str, Any]:
        try:
            return call(service, *given)
        except CxrError as error:
            raise gr.Error(str(error), print_exception=False) from None

    # Clients call by name, and Gradio takes the names from the signature.
    own = inspect.signature(call)
    call_answered.__signature__ = own.replace(parameters=list(own.parameters.values())[1:])  # type: ignore[attr-defined]
    return call_answered
