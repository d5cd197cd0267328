"""Explanation panel: quick methods run at once, slow ones on demand, and can be stopped."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from app.service import InferenceService, StudySession
from app.ui import answer
from app.ui.study_form import UNKNOWN, label_of
from app.ui.theme import EXPLANATION, KEPT_SECONDS, READING
from cxr_mm.core.errors import CancelledError
from cxr_mm.core.prediction import percent
from cxr_mm.core.progress import Progress
from cxr_mm.core.task import ClinicalFeature
from cxr_mm.explain.attribution import Attribution
from cxr_mm.explain.html import share_bars
from cxr_mm.explain.methods import METHODS, Method, methods_of
from cxr_mm.explain.overlay import OPACITY
from cxr_mm.imaging.geometry import grey

Pixels = NDArray[np.uint8]
STOPPED = "Stopped. Choose a method to explain the image again."


@dataclass(frozen=True)
class ExplanationPanel:
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


def build(service: InferenceService) -> ExplanationPanel:
    """Place the explanation where the page stands."""
    titles = [(f.title, f.name) for f in service.task.findings]
    finding = gr.Dropdown(
        titles,
        value=titles[0][1],
        label="Finding to explain",
        filterable=False,
        visible=len(titles) > 1,
    )
    shares = gr.HTML(elem_id="shares")
    with gr.Column(visible=service.task.has_image, elem_classes="part"):
        with gr.Row(equal_height=True):
            method = gr.Dropdown(
                [(_titled(each), each.name) for each in methods_of("image")],
                value=service.usual("image"),
                label="How the image is explained",
                filterable=False,
                min_width=240,
            )
            opacity = gr.Slider(
                0, 1, OPACITY, step=0.05, label="Opacity of the colours", buttons=[], min_width=220
            )
            stop = gr.Button("Stop", size="sm", min_width=80, scale=0, visible=False)
        overlay = gr.Image(
            label="The image explained",
            interactive=False,
            format="png",
            height=420,
            buttons=["fullscreen", "download"],
            elem_id="overlay",
            alt_text="The image with the regions that speak for the finding in colour",
        )
        caption = gr.HTML()
    features, words = gr.HTML(), gr.HTML()
    result = gr.State(None, time_to_live=KEPT_SECONDS)
    return ExplanationPanel(
        finding, shares, method, opacity, stop, overlay, caption, features, words, result
    )


def _titled(method: Method) -> str:
    return f"{method.title} (takes some seconds)" if method.slow else method.title


def bind_events(
    service: InferenceService, panel: ExplanationPanel, state: Any, answered: Any
) -> None:
    """Wire the explanation: after each answer, for another finding, by another method."""
    image = {
        "fn": partial(on_image, service),
        "inputs": [state, panel.finding, panel.method, panel.opacity],
        "outputs": [panel.map, panel.overlay, panel.caption, panel.stop],
        "show_progress_on": panel.overlay,  # also the place in the queue
        **EXPLANATION,
    }
    rest = {
        "fn": partial(on_details, service),
        "inputs": [state, panel.finding],
        "outputs": [panel.shares, panel.features, panel.words],
        "show_progress_on": panel.shares,
        **EXPLANATION,
    }
    # Shares, features and words take less than a second; the image may take many.
    first = answered.then(**rest).then(**image)
    # Change, not input: a dropdown also says input when it is left, chosen from or not.
    again = panel.finding.change(**rest).then(**image)
    other = panel.method.change(**image)
    panel.stop.click(on_stop, state, image["outputs"], cancels=[first, again, other], **READING)
    panel.opacity.input(
        partial(on_opacity, service),
        [state, panel.map, panel.opacity],
        panel.overlay,
        show_progress="hidden",
        trigger_mode="always_last",
        **READING,
    )


def on_details(
    service: InferenceService, session: StudySession | None, finding: str
) -> tuple[str, str, str]:
    """Shares of the modalities, clinical features as bars and the note in colour."""
    if session is None:
        return "", "", ""
    bars, words = service.details(session, finding)
    part = partial(answer.piece, "part")
    return (
        share_bars(session.explanations[finding]),
        part("Clinical features", bars, service.faithfulness_of(service.usual("tabular"))),
        part("Note", words, service.faithfulness_of(service.usual("note"))),
    )


def on_image(
    service: InferenceService,
    session: StudySession | None,
    finding: str,
    method: str,
    opacity: float,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  how Gradio is asked for one
) -> Iterator[tuple[Any, Any, Any, Any]]:
    """The map over the image for one finding; a slow one can be stopped while it is made."""
    if session is None:
        yield None, None, "", gr.update(visible=False)
        return
    session.stop.clear()
    if METHODS[method].slow and session.image is not None:
        yield gr.skip(), gr.skip(), gr.skip(), gr.update(visible=True)
    on_progress = Progress(
        callback=lambda done, total: progress((done, total), desc="Asking the model"),
        cancelled=session.stop.is_set,
    )
    try:
        result = service.explained(session, finding, method, on_progress)
        text = service.caption(result)
    except CancelledError:
        result, text = None, STOPPED
    yield (
        result,
        service.drawn(session, result, opacity),
        answer.quiet(text),
        gr.update(visible=False),
    )


def on_opacity(
    service: InferenceService,
    session: StudySession | None,
    attribution: Attribution | None,
    opacity: float,
) -> Pixels | Any:
    """The same map, more or less of it."""
    if session is None or attribution is None:
        return gr.skip()
    return service.drawn(session, attribution, opacity)


def on_stop(session: StudySession | None) -> tuple[Any, Any, str, Any]:
    """Show the image alone: the reader no longer waits for the method chosen."""
    if session is not None:
        session.stop.set()
    image = None if session is None or session.image is None else grey(session.image)
    return None, image, answer.quiet(STOPPED), gr.update(visible=False)


STEPS = 100
ASIDE = "Move a feature: all else stays as it was entered, and nothing is logged."


@dataclass(frozen=True)
class WhatIfPanel:
    """The parts: a control for each clinical feature, in the task's order."""

    box: Any
    controls: list[Any]
    moved: Any
    status: Any
    back: Any


def build_what_if(service: InferenceService) -> WhatIfPanel:
    """Place the controls where the page stands."""
    with gr.Accordion("What if", open=False, visible=bool(service.task.clinical)) as box:
        result = gr.HTML(answer.quiet(ASIDE), elem_id="what-if")
        with gr.Row():
            controls = [_control(service, feature) for feature in service.task.clinical]
        back = gr.Button("As it was entered", size="sm")
    return WhatIfPanel(box, controls, gr.State({}), result, back)


def _control(service: InferenceService, feature: ClinicalFeature) -> Any:
    if feature.type == "category":
        choices = [(UNKNOWN, ""), *((c, c) for c in feature.categories)]
        return gr.Dropdown(choices, value="", label=feature.title, filterable=False, min_width=180)
    low, high = span(service, feature)
    step = _step(low, high)
    return gr.Slider(
        low, high, (low + high) / 2, step=step, label=label_of(feature), buttons=[], min_width=180
    )


def span(service: InferenceService, feature: ClinicalFeature) -> tuple[float, float]:
    """Where a number may be moved: as far as the training studies went."""
    seen = service.bundle.clinical.seen[feature.name]
    low, high = seen or (feature.minimum, feature.maximum)
    assert low is not None
    assert high is not None
    return float(low), max(float(high), float(low) + 1e-6)


def _step(low: float, high: float) -> float:
    """A round step, about a hundred of them."""
    rough = (high - low) / STEPS
    return next(s for s in (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 50, 100, rough) if s >= rough)


def bind_what_if_events(
    service: InferenceService, part: WhatIfPanel, state: Any, answered: Any
) -> None:
    """Wire the controls: set after each answer, asked at each move."""
    outputs = [part.moved, part.status, *part.controls]
    answered.then(partial(on_answer, service), state, outputs, **READING)
    part.back.click(partial(on_answer, service), state, outputs, **READING)
    for feature, control in zip(service.task.clinical, part.controls, strict=True):
        control.input(
            partial(on_move, service, feature.name),
            [state, part.moved, control],
            [part.moved, part.status],
            show_progress="hidden",
            trigger_mode="always_last",
            **READING,
        )


def on_answer(service: InferenceService, session: StudySession | None) -> tuple[Any, ...]:
    """Every control as it was entered; a number that was not known stands in the middle."""
    values = {} if session is None else session.answer.clinical
    controls = [_entered(service, feature, values) for feature in service.task.clinical]
    return {}, answer.quiet(ASIDE), *controls


def _entered(service: InferenceService, feature: ClinicalFeature, values: Mapping[str, Any]) -> Any:
    value = values.get(feature.name)
    if feature.type == "category":
        return gr.update(value=value or "")
    low, high = span(service, feature)
    label = label_of(feature) if value is not None else f"{label_of(feature)}: {UNKNOWN}"
    if value is None:
        return gr.update(value=(low + high) / 2, label=label)
    return gr.update(value=value, label=label, minimum=min(low, value), maximum=max(high, value))


def on_move(
    service: InferenceService,
    name: str,
    session: StudySession | None,
    moved: Mapping[str, Any],
    value: Any,
) -> tuple[dict[str, Any], str]:
    """A control was moved: what the model would say."""
    if session is None:
        return {}, ""
    now = {**moved, name: None if value in ("", None) else value}
    chances = service.moved(session, now)
    rows = [
        (found.title, percent(found.probability), percent(chances[found.finding]))
        for found in session.answer.prediction.findings
    ]
    return now, answer.piece("what_if", _changes_text(service, now), rows)


def _changes_text(service: InferenceService, moved: Mapping[str, Any]) -> str:
    known = {feature.name: feature for feature in service.task.clinical}
    result = []
    for name, value in moved.items():
        feature = known[name]
        text = UNKNOWN if value is None else str(value)
        if value is not None and feature.type == "number":
            text = f"{value:g}{feature.unit_suffix}"
        result.append(f"{feature.title} were {text}")
    return " and ".join(result)
