"""Viewer: the image on the page, through a window of the reader's choice, and what its file says.

Nothing here reaches the model but what the reader hands to the form with a click. The page places
the viewer with `build`, hands it each image, and lets its button fill the form:

    viewer = build(KEPT_SECONDS)
    file.change(... → opened(task, image) or closed(), outputs=viewer.outputs)
    viewer.fill.click(partial(filled, task), viewer.kept, clinical_fields)
"""

import math
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from app.ui.answer import quiet
from app.ui.theme import ZOOMED
from cxr_mm.core.task import Task
from cxr_mm.data.studies import header_values
from cxr_mm.imaging.dicom import display_text
from cxr_mm.imaging.radiograph import DecodedImage, Radiograph
from cxr_mm.imaging.voi import Viewable, windowed

Pixels = NDArray[np.uint8]
HEIGHT = 340
ZOOM = 4.0


@dataclass(frozen=True)
class OpenedImage:
    """What is kept of the image on show.

    Args:
        viewable: the small copy to look at.
        offered: clinical feature → what the file says of it, as the form's field takes it.
    """

    viewable: Viewable
    offered: dict[str, str]


@dataclass(frozen=True)
class Viewer:
    """The parts of the viewer; a page needs `outputs`, `kept` and `fill`."""

    kept: Any
    preview: Any
    display: Any
    level: Any
    width: Any
    inverted: Any
    stated: Any
    zoom: Any
    status: Any
    fill: Any

    @property
    def outputs(self) -> list[Any]:
        """What `opened` and `closed` give values for, in their order."""
        window = [self.level, self.width, self.inverted]
        return [self.kept, self.preview, self.display, *window, self.status, self.fill]


def build(kept_seconds: float) -> Viewer:
    """Place the viewer where the page stands, and wire what stays within it.

    Args:
        kept_seconds: for which the image is kept.
    """
    stored = gr.State(None, time_to_live=kept_seconds)
    preview = gr.Image(
        label="The image",
        interactive=False,
        format="png",
        height=HEIGHT,
        buttons=["fullscreen"],
        elem_id="image-preview",
        alt_text="The uploaded radiograph",
    )
    with gr.Accordion(
        "Display (does not change the prediction)", open=False, visible=False
    ) as display:
        with gr.Row():
            level = gr.Slider(label="Level", buttons=[], min_width=200)
            width = gr.Slider(label="Width", buttons=[], min_width=200)
        with gr.Row():
            zoom = gr.Slider(1, ZOOM, 1, step=0.25, label="Zoom", buttons=[], min_width=200)
            with gr.Column(min_width=200):
                inverted = gr.Checkbox(label="Inverted")
                stated = gr.Button("As the file says", size="sm")
    result = gr.HTML(visible=False)
    fill = gr.Button("Fill the form with these", size="sm", visible=False)
    viewer = Viewer(stored, preview, display, level, width, inverted, stated, zoom, result, fill)
    _events(viewer)
    return viewer


def _events(viewer: Viewer) -> None:
    window = [viewer.level, viewer.width, viewer.inverted]
    quick = {"concurrency_id": "reading", "show_progress": "hidden", "api_visibility": "private"}
    # Input, not release: the arrow keys never release a slider.
    gr.on(
        [part.input for part in window],
        redrawn,
        [viewer.kept, *window],
        viewer.preview,
        trigger_mode="always_last",
        **quick,
    )
    viewer.stated.click(as_stated, viewer.kept, [viewer.preview, *window], **quick)
    viewer.zoom.change(None, viewer.zoom, js=ZOOMED, api_visibility="private")


def opened(task: Task, image: DecodedImage) -> list[Any]:
    """An image was read: values for `Viewer.outputs`."""
    assert image.viewable is not None  # the page's reader makes one
    stored = OpenedImage(image.viewable, header_values(task, image.radiograph))
    text = header(image.radiograph)
    pixels, *window = as_stated(stored)
    result = gr.update(value=text, visible=bool(text))
    return [
        stored,
        pixels,
        gr.update(visible=True),
        *window,
        result,
        gr.update(visible=bool(stored.offered)),
    ]


def closed() -> list[Any]:
    """There is no image, or none that can be read: values for `Viewer.outputs`."""
    hidden = gr.update(visible=False)
    return [None, None, hidden, gr.skip(), gr.skip(), gr.skip(), hidden, hidden]


def as_stated(stored: OpenedImage | None) -> tuple[Any, Any, Any, Any]:
    """The image as its file says, and the controls set and scaled to that."""
    if stored is None:
        return gr.skip(), gr.skip(), gr.skip(), gr.skip()
    image = stored.viewable
    # From 0, so that no number is out of range while it is being typed.
    lowest = min(0.0, image.low, image.centre)
    highest = max(image.high, image.centre, lowest + 1)
    widest = max(highest - lowest + 1, image.width)
    step = min(1.0, 10.0 ** math.floor(math.log10(widest) - 2))
    level = gr.update(minimum=lowest, maximum=highest, value=image.centre, step=step)
    width = gr.update(minimum=1, maximum=widest, value=image.width, step=step)
    return image.seen, level, width, image.inverted


def redrawn(
    stored: OpenedImage | None, level: float | None, width: float | None, inverted: bool
) -> Pixels | Any:
    """The image through another window; unchanged while a number is being typed."""
    if stored is None or level is None or width is None:
        return gr.skip()
    return windowed(stored.viewable, level, width, inverted)


def header(image: Radiograph) -> str:
    """What the header says of patient and view, in words of the standard, as HTML; empty where it
    says nothing."""
    says = []
    if image.view:
        says.append(f"view {display_text('ViewPosition', image.view)}")
    if "age" in image.header:
        says.append(f"age {image.header['age']:.3g} years")
    if "sex" in image.header:
        says.append(f"sex {image.header['sex']}")
    return quiet(f"The file says: {', '.join(says)}.") if says else ""


def filled(task: Task, stored: OpenedImage | None) -> list[Any]:
    """Values for the form's clinical fields, in the task's order: those on offer, no other."""
    offered = stored.offered if stored else {}
    return [
        gr.update(value=offered[feature.name]) if feature.name in offered else gr.skip()
        for feature in task.clinical
    ]
