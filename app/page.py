"""Page: the tabs of one model as a Gradio application; layout alone, no reading of its own."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from app import (
    api,
    compare_tab,
    entry,
    feedback_part,
    health_tab,
    point_part,
    report_part,
    show,
    style,
    what_if_part,
    why,
    worklist_tab,
)
from app.lanes import KEPT_SECONDS
from app.reading import ReadingRoom

QUEUE = 64
"""Asks that may wait; one more is told to come again."""


def build(
    room: ReadingRoom,
    examples: list[list[Any]] | None = None,
    others: Sequence[tuple[str, str]] = (),
    name: str | None = None,
) -> gr.Blocks:
    """The page of one model.

    Args:
        room: answers, explains and logs.
        examples: rows of film path, note and clinical values, as `examples.read` gives them.
        others: titles and addresses of the pages of other models.
        name: of the page in the addresses of its reports; the task's where there is none.
    """
    task, bundle = room.task, room.bundle
    with gr.Blocks(
        title=f"{task.title} · cxr_mm",
        analytics_enabled=False,
        delete_cache=(KEPT_SECONDS // 4, KEPT_SECONDS),
    ) as page:
        gr.HTML(show.notices(task), elem_id="notice")
        gr.HTML(show.header(task, bundle.name, bundle.digest, others), elem_id="header")
        state = gr.State(None, time_to_live=KEPT_SECONDS)
        history = gr.State([], time_to_live=KEPT_SECONDS)
        with gr.Tab("Read one study"):
            answered = _reading(room, state, history, examples)
        with gr.Tab("Worklist"):
            worklist_tab.build(room)
        with gr.Tab("Compare"):
            compare_tab.build(room, history, answered)
        with gr.Tab("Model health") as tab:
            health_tab.build(room, tab, name)
        api.build(room)
    page.queue(max_size=QUEUE, default_concurrency_limit=4)
    return page


def _reading(room: ReadingRoom, state: Any, history: Any, examples: list[list[Any]] | None) -> Any:
    """Form on the left, answer and what explains it on the right; the event of an answer."""
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            form = entry.build(room)
            if examples:
                with gr.Column(elem_classes="examples"):
                    _examples(room, form, examples)
        with gr.Column(scale=6, min_width=320):
            gr.HTML('<h2 class="step" id="answered">Answer</h2>')
            answer = gr.HTML(show.EMPTY, elem_id="answer")
            with gr.Column(visible=False, elem_classes="part") as after:
                reason = point_part.build(room, state, answer)
                gr.HTML('<h2 class="step">Why</h2>')
                explanation = why.build(room)
                moving = what_if_part.build(room)
                feedback = feedback_part.build(room)
                report = report_part.build(room)
    for field in form.entered:
        field.change(fn=None, js=style.STALE, api_visibility="private")
    answered = entry.predicts(room, form, state, history, answer)
    answered.then(
        lambda shown: (gr.update(visible=shown is not None), room.bundle.decision),
        state,
        [after, reason],
        api_visibility="private",
    )
    answered.then(fn=None, js=style.LOOK, api_visibility="private")
    why.explains(room, explanation, state, answered)
    what_if_part.moves(room, moving, state, answered)
    feedback_part.sends(room, feedback, state)
    report_part.makes(room, report, state, explanation)
    return answered


def _examples(room: ReadingRoom, form: entry.Entry, examples: list[list[Any]]) -> None:
    gr.Examples(
        examples,
        [form.film, form.note, *form.clinical],
        label="Examples (synthetic)" if room.task.synthetic else "Examples",
        example_labels=[f"Example {i + 1}" for i in range(len(examples))],
        api_visibility="private",
    )
