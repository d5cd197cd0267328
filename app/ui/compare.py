"""Compare tab: the studies that this page has answered, and two of them side by side."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr
from markupsafe import Markup

from app.service import InferenceService, StudySession
from app.ui import answer
from app.ui.theme import READING
from cxr_mm.core.prediction import percent
from cxr_mm.data.studies import GENERATED_ID
from cxr_mm.explain.overlay import data_uri
from cxr_mm.imaging.geometry import grey

SIDE = 420
EMPTY = "Studies that were answered appear here, the newest first."


def build(service: InferenceService, history: Any, answered: Any) -> None:
    """Build the tab's contents, inside a Blocks.

    Args:
        service: which answers.
        history: state that holds what was answered.
        answered: event after which there is more of it.
    """
    with gr.Row():
        first, second = (
            gr.Dropdown([], label=label, filterable=False, min_width=220, visible=False)
            for label in ("Study", "Beside it")
        )
    table = gr.HTML(answer.quiet(EMPTY), elem_id="compared")
    answered.then(partial(on_answer, service), history, [first, second, table], **READING)
    gr.on(
        [first.input, second.input],
        partial(on_choose, service),
        [history, first, second],
        table,
        **READING,
    )


def on_answer(service: InferenceService, history: Sequence[StudySession]) -> tuple[Any, Any, str]:
    """One more study: the two newest are compared."""
    names = [(name_of(k, session), k) for k, session in enumerate(history)][::-1]
    newest = [k for _, k in names[:2]] + [None, None]
    one, other = newest[:2]
    left, right = (gr.update(choices=names, value=k, visible=True) for k in (one, other))
    return left, right, on_choose(service, history, one, other)


def name_of(number: int, session: StudySession) -> str:
    """Name of a study in the list: its own id if one was entered, and its likeliest finding."""
    result = session.answer.prediction
    own = "" if result.study_id.startswith(GENERATED_ID) else f" {result.study_id}"
    likeliest = max(result.findings, key=lambda found: found.probability)
    return f"{number + 1}{own}: {likeliest.title} {percent(likeliest.probability)}"


def on_choose(
    service: InferenceService,
    history: Sequence[StudySession],
    first: int | None,
    second: int | None,
) -> str:
    """Two studies were chosen, or one."""
    chosen = [(k, history[k]) for k in (first, second) if k is not None and k < len(history)]
    if not chosen:
        return answer.quiet(EMPTY)
    cards = [_card(service, session, k) for k, session in chosen]
    return answer.piece("compared", cards, _changes([session for _, session in chosen]))


def _card(
    service: InferenceService, session: StudySession, number: int
) -> tuple[str, str | None, Markup]:
    """Title, address of the image and answer of one study."""
    image = None if session.image is None else data_uri(grey(session.image, SIDE))
    return name_of(number, session), image, answer.answer(service.bundle, session)


def _changes(chosen: Sequence[StudySession]) -> list[list[str]]:
    """Differences between the probabilities of two studies, in percentage points."""
    if len(chosen) < 2:
        return []
    left, right = (session.answer.prediction.findings for session in chosen)
    return [
        [
            a.title,
            percent(a.probability),
            percent(b.probability),
            f"{100 * (a.probability - b.probability):+.1f} points",
        ]
        for a, b in zip(left, right, strict=True)
    ]
