"""Why: what drove the answer; what is quick comes at once, what is slow on demand and can be
stopped."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from app import show
from app.lanes import EXPLANATION, KEPT_SECONDS, READING
from app.reading import ReadingRoom, Shown
from cxr_mm.contracts.explanation import Attribution
from cxr_mm.errors import CancelledError
from cxr_mm.explain.methods import METHODS, Method, methods_of
from cxr_mm.explain.render import OPACITY, grey
from cxr_mm.explain.watch import Watch

Pixels = NDArray[np.uint8]
STOPPED = "Stopped. Choose a method to explain the film again."


@dataclass(frozen=True)
class Why:
    """The parts of the explanation."""

    finding: Any
    shares: Any
    method: Any
    opacity: Any
    stop: Any
    overlay: Any
    caption: Any
    features: Any
    words: Any
    map: Any


def build(room: ReadingRoom) -> Why:
    """Place the explanation where the page stands."""
    titles = [(f.title, f.name) for f in room.task.findings]
    finding = gr.Dropdown(
        titles,
        value=titles[0][1],
        label="Finding to explain",
        filterable=False,
        visible=len(titles) > 1,
    )
    shares = gr.HTML(elem_id="shares")
    with gr.Column(visible=room.task.has_image, elem_classes="part"):
        with gr.Row(equal_height=True):
            method = gr.Dropdown(
                [(_titled(each), each.name) for each in methods_of("image")],
                value=room.usual("image"),
                label="How the film is explained",
                filterable=False,
                min_width=240,
            )
            opacity = gr.Slider(
                0, 1, OPACITY, step=0.05, label="Opacity of the colours", buttons=[], min_width=220
            )
            stop = gr.Button("Stop", size="sm", min_width=80, scale=0, visible=False)
        overlay = gr.Image(
            label="The film explained",
            interactive=False,
            format="png",
            height=420,
            buttons=["fullscreen", "download"],
            elem_id="overlay",
            alt_text="The film with the regions that speak for the finding in colour",
        )
        caption = gr.HTML()
    features, words = gr.HTML(), gr.HTML()
    said = gr.State(None, time_to_live=KEPT_SECONDS)
    return Why(finding, shares, method, opacity, stop, overlay, caption, features, words, said)


def _titled(method: Method) -> str:
    return f"{method.title} (takes some seconds)" if method.slow else method.title


def explains(room: ReadingRoom, why: Why, state: Any, answered: Any) -> None:
    """Wire the explanation: after each answer, for another finding, by another method."""
    film = {
        "fn": partial(on_film, room),
        "inputs": [state, why.finding, why.method, why.opacity],
        "outputs": [why.map, why.overlay, why.caption, why.stop],
        "show_progress_on": why.overlay,  # also the place in the queue
        **EXPLANATION,
    }
    rest = {
        "fn": partial(on_rest, room),
        "inputs": [state, why.finding],
        "outputs": [why.shares, why.features, why.words],
        "show_progress_on": why.shares,
        **EXPLANATION,
    }
    # Shares, features and words take less than a second; the film may take many.
    first = answered.then(**rest).then(**film)
    # Change, not input: a dropdown also says input when it is left, chosen from or not.
    again = why.finding.change(**rest).then(**film)
    other = why.method.change(**film)
    why.stop.click(on_stop, state, film["outputs"], cancels=[first, again, other], **READING)
    why.opacity.input(
        partial(on_opacity, room),
        [state, why.map, why.opacity],
        why.overlay,
        show_progress="hidden",
        trigger_mode="always_last",
        **READING,
    )


def on_rest(room: ReadingRoom, shown: Shown | None, finding: str) -> tuple[str, str, str]:
    """Shares of the modalities, clinical features as bars and the note in colour."""
    if shown is None:
        return "", "", ""
    bars, words = room.details(shown, finding)
    return (
        show.shares(shown, finding),
        show.part("Clinical features", bars, room.believed(room.usual("tabular"))),
        show.part("Note", words, room.believed(room.usual("note"))),
    )


def on_film(
    room: ReadingRoom,
    shown: Shown | None,
    finding: str,
    method: str,
    opacity: float,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  how Gradio is asked for one
) -> Iterator[tuple[Any, Any, Any, Any]]:
    """The map over the film for one finding; a slow one can be stopped while it is made."""
    if shown is None:
        yield None, None, "", gr.update(visible=False)
        return
    shown.stop.clear()
    if METHODS[method].slow and shown.film is not None:
        yield gr.skip(), gr.skip(), gr.skip(), gr.update(visible=True)
    watch = Watch(
        told=lambda done, total: progress((done, total), desc="Asking the model"),
        cancelled=shown.stop.is_set,
    )
    try:
        said = room.explained(shown, finding, method, watch)
        text = room.caption(said)
    except CancelledError:
        said, text = None, STOPPED
    yield said, room.drawn(shown, said, opacity), quiet(text), gr.update(visible=False)


def on_opacity(
    room: ReadingRoom, shown: Shown | None, said: Attribution | None, opacity: float
) -> Pixels | Any:
    """The same map, more or less of it."""
    if shown is None or said is None:
        return gr.skip()
    return room.drawn(shown, said, opacity)


def on_stop(shown: Shown | None) -> tuple[Any, Any, str, Any]:
    """Nobody waits any longer: the film alone, for an earlier map is not by the method chosen."""
    if shown is not None:
        shown.stop.set()
    film = None if shown is None or shown.film is None else grey(shown.film)
    return None, film, quiet(STOPPED), gr.update(visible=False)


def quiet(text: str) -> str:
    """A line of small print."""
    return f'<p class="quiet">{escape(text)}</p>'
