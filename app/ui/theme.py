"""What all panels share: style, scripts and queues."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils.fonts import Font

from app.calls import EXPLANATIONS_AT_ONCE, READINGS_AT_ONCE
from app.service import InferenceService
from cxr_mm.explain.html import CSS as BARS

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")
STATIC = Path(__file__).parent / "static"
CSS = BARS + (STATIC / "page.css").read_text()
ON_LOAD = (STATIC / "page.js").read_text()
STALE, FRESH, LOOK, ZOOMED, OPEN = (
    f"(...values) => window.page.{name}(...values)"
    for name in ("stale", "fresh", "look", "zoom", "open")
)


def theme() -> gr.themes.Default:
    """Gradio's default with system fonts, and print and buttons that can be read (WCAG AA)."""
    return gr.themes.Default(
        primary_hue="blue", font=[Font(f) for f in FONT], font_mono=[Font(f) for f in MONO]
    ).set(
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_title_text_color="*neutral_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
    )


KEPT_SECONDS = 3600
"""For how long the page keeps what it was handed and what it answered."""

_OWN: dict[str, Any] = {"api_visibility": "private"}
READING = {**_OWN, "concurrency_id": "reading", "concurrency_limit": READINGS_AT_ONCE}
"""Quick looks at what was entered or answered."""
EXPLANATION = {
    **_OWN,
    "concurrency_id": "explanation",
    "concurrency_limit": EXPLANATIONS_AT_ONCE,
}
WORKLIST = {**_OWN, "concurrency_id": "worklist", "concurrency_limit": 1}


def prediction_queue(service: InferenceService) -> dict[str, Any]:
    """Queue of the predictions of a model."""
    return {**_OWN, "concurrency_id": "prediction", "concurrency_limit": service.at_once}
