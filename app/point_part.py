"""Operating point: from which probability on a finding of the answer is called positive."""

from functools import partial
from typing import Any

import gradio as gr

from app import show
from app.lanes import READING
from app.reading import ReadingRoom, Shown
from cxr_mm.contracts.prediction import Reason
from cxr_mm.explain.bars import REASONS


def build(room: ReadingRoom, state: Any, answer: Any) -> Any:
    """Place the choice of operating point, which needs no new prediction.

    Args:
        room: whose model it is.
        state: holds the answer on show.
        answer: where it is shown.
    """
    own = room.bundle.decision
    choices = [(f"{name} (usual)" if r == own else name, r) for r, name in REASONS.items()]
    reason = gr.Dropdown(
        choices,
        value=own,
        label="Operating point",
        info="From which probability on a finding is called positive.",
        filterable=False,
        visible=room.task.problem != "multiclass",
    )
    given = {"inputs": [state, reason], "outputs": [state, answer], **READING}
    reason.input(partial(on_reason, room), show_progress="hidden", **given)
    return reason


def on_reason(room: ReadingRoom, shown: Shown | None, reason: Reason) -> tuple[Any, Any]:
    """Another operating point was chosen."""
    if shown is None:
        return gr.skip(), gr.skip()
    moved = room.at(shown, reason)
    return moved, show.answer(room.bundle, moved)
