"""What if: clinical features that can be moved, and what the model would then say."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from app.form import UNKNOWN, label_of
from app.lanes import READING
from app.reading import ReadingRoom, Shown
from cxr_mm.contracts.task import ClinicalFeature
from cxr_mm.contracts.units import spoken
from cxr_mm.explain.bars import percent

STEPS = 100
ASIDE = "Move a feature: all else stays as it was entered, and nothing is logged."


@dataclass(frozen=True)
class WhatIfPart:
    """The parts: a control for each clinical feature, in the task's order."""

    box: Any
    controls: list[Any]
    moved: Any
    said: Any
    back: Any


def build(room: ReadingRoom) -> WhatIfPart:
    """Place the controls where the page stands."""
    with gr.Accordion("What if", open=False, visible=bool(room.task.clinical)) as box:
        said = gr.HTML(f'<p class="quiet">{ASIDE}</p>', elem_id="what-if")
        with gr.Row():
            controls = [_control(room, feature) for feature in room.task.clinical]
        back = gr.Button("As it was entered", size="sm")
    return WhatIfPart(box, controls, gr.State({}), said, back)


def _control(room: ReadingRoom, feature: ClinicalFeature) -> Any:
    if feature.type == "category":
        choices = [(UNKNOWN, ""), *((c, c) for c in feature.categories)]
        return gr.Dropdown(choices, value="", label=feature.title, filterable=False, min_width=180)
    low, high = span(room, feature)
    step = _step(low, high)
    return gr.Slider(
        low, high, (low + high) / 2, step=step, label=label_of(feature), buttons=[], min_width=180
    )


def span(room: ReadingRoom, feature: ClinicalFeature) -> tuple[float, float]:
    """Where a number may be moved: as far as the training studies went."""
    seen = room.bundle.clinical.seen[feature.name]
    low, high = seen or (feature.minimum, feature.maximum)
    assert low is not None
    assert high is not None
    return float(low), max(float(high), float(low) + 1e-6)


def _step(low: float, high: float) -> float:
    """A round step, about a hundred of them."""
    rough = (high - low) / STEPS
    return next(s for s in (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 50, 100, rough) if s >= rough)


def moves(room: ReadingRoom, part: WhatIfPart, state: Any, answered: Any) -> None:
    """Wire the controls: set after each answer, asked at each move."""
    outputs = [part.moved, part.said, *part.controls]
    answered.then(partial(on_answer, room), state, outputs, **READING)
    part.back.click(partial(on_answer, room), state, outputs, **READING)
    for feature, control in zip(room.task.clinical, part.controls, strict=True):
        control.input(
            partial(on_move, room, feature.name),
            [state, part.moved, control],
            [part.moved, part.said],
            show_progress="hidden",
            trigger_mode="always_last",
            **READING,
        )


def on_answer(room: ReadingRoom, shown: Shown | None) -> tuple[Any, ...]:
    """Every control as it was entered; a number that was not known stands in the middle."""
    values = {} if shown is None else shown.answer.clinical
    controls = [_entered(room, feature, values) for feature in room.task.clinical]
    return {}, f'<p class="quiet">{ASIDE}</p>', *controls


def _entered(room: ReadingRoom, feature: ClinicalFeature, values: Mapping[str, Any]) -> Any:
    value = values.get(feature.name)
    if feature.type == "category":
        return gr.update(value=value or "")
    low, high = span(room, feature)
    label = label_of(feature) if value is not None else f"{label_of(feature)}: {UNKNOWN}"
    if value is None:
        return gr.update(value=(low + high) / 2, label=label)
    return gr.update(value=value, label=label, minimum=min(low, value), maximum=max(high, value))


def on_move(
    room: ReadingRoom, name: str, shown: Shown | None, moved: Mapping[str, Any], value: Any
) -> tuple[dict[str, Any], str]:
    """A control was moved: what the model would say."""
    if shown is None:
        return {}, ""
    now = {**moved, name: None if value in ("", None) else value}
    chances = room.moved(shown, now)
    rows = [
        f'<tr><th scope="row">{escape(found.title)}</th><td>{percent(found.probability)}</td>'
        f"<td>{percent(chances[found.finding])}</td></tr>"
        for found in shown.answer.prediction.findings
    ]
    return now, (
        f'<p role="status">If {escape(_told(room, now))}:</p><table class="cxr-moved"><thead><tr>'
        '<th scope="col">Finding</th><th scope="col">as entered</th><th scope="col">then</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _told(room: ReadingRoom, moved: Mapping[str, Any]) -> str:
    known = {feature.name: feature for feature in room.task.clinical}
    said = []
    for name, value in moved.items():
        feature = known[name]
        text = UNKNOWN if value is None else str(value)
        if value is not None and feature.type == "number":
            text = f"{value:g}{spoken(feature.unit)}"
        said.append(f"{feature.title} were {text}")
    return " and ".join(said)
