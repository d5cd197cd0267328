"""Page: the tabs of one model as a Gradio application; layout alone, no reading of its own."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from app.calls import MOST_WAITING
from app.inbox import Inbox
from app.service import InferenceService
from app.ui import (
    answer as answer_panel,
)
from app.ui import (
    api,
    case_report,
    compare,
    explanation,
    feedback,
    health,
    study_form,
    theme,
    worklist,
)
from app.ui import (
    inbox as inbox_panel,
)
from app.ui.theme import KEPT_SECONDS


def build(
    service: InferenceService,
    examples: list[list[Any]] | None = None,
    others: Sequence[tuple[str, str]] = (),
    name: str | None = None,
    inbox: Inbox | None = None,
) -> gr.Blocks:
    """The page of one model.

    Args:
        service: answers, explains and logs.
        examples: rows of image path, note and clinical values, as `examples.read` gives them.
        others: titles and addresses of the pages of other models.
        name: of the page in the addresses of its reports; the task's where there is none.
        inbox: queue of a node beside the PACS; None for no such tab.
    """
    task, bundle = service.task, service.bundle
    with gr.Blocks(
        title=f"{task.title} · cxr_mm",
        analytics_enabled=False,
        delete_cache=(KEPT_SECONDS // 4, KEPT_SECONDS),
    ) as page:
        gr.HTML(answer_panel.notices(task), elem_id="notice")
        gr.HTML(answer_panel.header(bundle, others), elem_id="header")
        state = gr.State(None, time_to_live=KEPT_SECONDS)
        history = gr.State([], time_to_live=KEPT_SECONDS)
        with gr.Tab("Read one study"):
            form, answered = _reading(service, state, history, examples)
        if inbox is not None:
            with gr.Tab("Inbox") as tab:
                inbox_panel.build(service, inbox, tab, form)
        with gr.Tab("Worklist"):
            worklist.build(service)
        with gr.Tab("Compare"):
            compare.build(service, history, answered)
        with gr.Tab("Model health") as tab:
            health.build(service, tab, name)
        api.build(service)
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=4)
    return page


def _reading(
    service: InferenceService, state: Any, history: Any, examples: list[list[Any]] | None
) -> tuple[study_form.Entry, Any]:
    """Form on the left, answer and what explains it on the right; the form, and the event of an
    answer."""
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            form = study_form.build(service)
            if examples:
                with gr.Column(elem_classes="examples"):
                    _examples(service, form, examples)
        with gr.Column(scale=6, min_width=320):
            gr.HTML(answer_panel.piece("heading", "Answer", "answered"))
            answer = gr.HTML(answer_panel.EMPTY, elem_id="answer")
            with gr.Column(visible=False, elem_classes="part") as after:
                reason = answer_panel.build(service, state, answer)
                gr.HTML(answer_panel.piece("heading", "Why"))
                explained = explanation.build(service)
                what_if = explanation.build_what_if(service)
                assessed = feedback.build(service)
                report = case_report.build(service)
    for field in form.entered:
        field.change(None, form.entered, js=theme.STALE, api_visibility="private")
    answered = study_form.bind_events(service, form, state, history, answer)
    answered.then(
        lambda session: (gr.update(visible=session is not None), service.bundle.decision),
        state,
        [after, reason],
        api_visibility="private",
    )
    answered.then(fn=None, js=theme.LOOK, api_visibility="private")
    explanation.bind_events(service, explained, state, answered)
    explanation.bind_what_if_events(service, what_if, state, answered)
    feedback.bind_events(service, assessed, state)
    case_report.bind_events(service, report, state, explained)
    return form, answered


def _examples(service: InferenceService, form: study_form.Entry, examples: list[list[Any]]) -> None:
    gr.Examples(
        examples,
        [form.image, form.note, *form.clinical],
        label="Examples (synthetic)" if service.task.synthetic else "Examples",
        example_labels=[f"Example {i + 1}" for i in range(len(examples))],
        api_visibility="private",
    )
