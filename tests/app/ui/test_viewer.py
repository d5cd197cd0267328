"""Viewer: windows change what is looked at and nothing else; the file fills the form when asked."""

from dataclasses import replace

import gradio as gr
import numpy as np
import pytest

from app.ui import viewer
from app.ui.study_form import clinical_fields
from cxr_mm.core.task import load_task, shipped_tasks
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.studies import header_values
from cxr_mm.imaging.radiograph import DecodedImage, Radiograph
from cxr_mm.imaging.voi import Unwindowed, viewable, windowed

VALUES = np.add.outer(np.arange(60), np.arange(40)).astype(np.float32) * 20
HEADER = {"age": 63.0, "sex": "M", "dicom_modality": "DX", "body_part": "CHEST"}


def image(values=VALUES, centre=900.0, width=1200.0, view="PA", header=HEADER):
    pixels = np.clip(values / 2000, 0, 1).astype(np.float32)
    small = viewable(Unwindowed(values, centre, width), pixels)
    return DecodedImage(Radiograph(pixels, view, dict(header)), small)


@pytest.fixture(scope="module")
def placed():
    with gr.Blocks(analytics_enabled=False) as page:
        return page, viewer.build(3600)


def opened(placed, task, shown):
    return dict(zip(map(id, placed[1].outputs), viewer.opened(task, shown), strict=True))


def test_a_image_is_first_shown_as_its_file_says(placed):
    task, session = load_task("effusion"), image()
    values = opened(placed, task, session)
    parts = placed[1]
    np.testing.assert_array_equal(values[id(parts.preview)], session.viewable.seen)
    assert values[id(parts.kept)].viewable is session.viewable
    level, width = values[id(parts.level)], values[id(parts.width)]
    assert (level["value"], width["value"], values[id(parts.inverted)]) == (900, 1200, False)
    assert level["minimum"] <= VALUES.min()
    assert level["maximum"] >= VALUES.max()
    assert values[id(parts.display)]["visible"]


def test_a_window_redraws_the_image_and_the_file_can_be_asked_again():
    stored = viewer.OpenedImage(image().viewable, {})
    drawn = viewer.redrawn(stored, 500, 100, True)
    np.testing.assert_array_equal(drawn, windowed(stored.viewable, 500, 100, True))
    assert not np.array_equal(drawn, stored.viewable.seen)
    np.testing.assert_array_equal(viewer.as_stated(stored)[0], stored.viewable.seen)


@pytest.mark.parametrize("window", [(None, 100), (500, None)])
def test_a_number_half_typed_and_no_image_change_nothing(window):
    assert viewer.redrawn(viewer.OpenedImage(image().viewable, {}), *window, False) == gr.skip()
    assert viewer.redrawn(None, 500, 100, False) == gr.skip()
    assert viewer.as_stated(None) == (gr.skip(),) * 4


@pytest.mark.parametrize(
    "shown",
    [
        image(),
        image(VALUES * 0),
        image(VALUES * 0, centre=0.0, width=1.0),
        image(VALUES - 1024, centre=-600.0, width=1500.0),
        image(VALUES / 1e4, centre=1.0, width=2.0),
        image(centre=-5000.0, width=90_000.0),
    ],
)
def test_the_controls_can_be_set_to_what_any_image_states(shown):
    _, level, width, _ = viewer.as_stated(viewer.OpenedImage(shown.viewable, {}))
    for control in (level, width):
        given = {k: control[k] for k in ("minimum", "maximum", "value", "step")}
        slider = gr.Slider(**given)
        assert slider.preprocess(control["value"]) == control["value"]
        assert 0 < control["step"] <= (control["maximum"] - control["minimum"]) / 2


def test_taking_the_image_away_takes_all_of_it_away(placed):
    values = dict(zip(map(id, placed[1].outputs), viewer.closed(), strict=True))
    parts = placed[1]
    assert values[id(parts.kept)] is None
    assert values[id(parts.preview)] is None
    assert not any(values[id(p)]["visible"] for p in (parts.display, parts.status, parts.fill))


def test_what_the_file_says_is_offered_in_the_tasks_own_words():
    assert header_values(load_task("effusion"), image().radiograph) == {
        "age": "63",
        "sex": "M",
        "view": "PA",
    }
    offered = header_values(load_task("synthetic"), image().radiograph)
    assert offered == {"age": "63", "sex": "male"}


@pytest.mark.parametrize("name", shipped_tasks())
def test_every_offer_is_a_value_that_its_task_takes(name):
    task = load_task(name)
    offered = header_values(task, image(header=HEADER | {"age": 1 / 12}).radiograph)
    assert set(offered) <= {"age", "sex", "view"} & set(task.clinical_names)
    taken = check_clinical(task.clinical, offered)
    assert all(taken[feature] is not None for feature in offered)


def test_what_the_task_refuses_is_left_out():
    task = load_task("effusion")
    odd = image(view="LL", header={"age": 121.0, "sex": "O"}).radiograph
    assert header_values(task, odd) == {}
    age = next(f for f in task.clinical if f.name == "age")
    months = task.model_copy(update={"clinical": (age.model_copy(update={"unit": "mo"}),)})
    assert header_values(months, image().radiograph) == {}


def test_the_form_is_filled_with_the_offers_and_nothing_else():
    task = load_task("synthetic")
    stored = viewer.OpenedImage(image().viewable, {"sex": "male"})
    with gr.Blocks(analytics_enabled=False):
        names = [feature.name for feature in task.clinical]
        fields = dict(zip(names, clinical_fields(task), strict=True))
    filled = dict(zip(names, viewer.filled(task, stored), strict=True))
    assert filled.pop("sex")["value"] in [value for _, value in fields["sex"].choices]
    assert all(update == gr.skip() for update in filled.values())
    assert all(update == gr.skip() for update in viewer.filled(task, None))


def test_nothing_is_filled_in_without_the_click(placed):
    page, parts = placed
    outputs = {part._id for fn in page.fns.values() for part in fn.outputs}
    assert outputs == {p._id for p in (parts.preview, parts.level, parts.width, parts.inverted)}
    assert {fn.concurrency_id for fn in page.fns.values() if fn.fn} == {"reading"}


def test_the_button_is_there_only_with_an_offer(placed):
    task, parts = load_task("effusion"), placed[1]
    assert opened(placed, task, image())[id(parts.fill)]["visible"]
    values = opened(placed, task, image(view=None, header={}))
    assert not values[id(parts.fill)]["visible"]
    assert not values[id(parts.status)]["visible"]


def test_what_the_file_says_is_written_out_in_words_of_the_standard():
    assert viewer.header(image().radiograph) == (
        '<p class="quiet">The file says: view PA, age 63 years, sex M.</p>'
    )
    assert "view other," in viewer.header(replace(image().radiograph, view="<b>DOE^JANE"))
    assert "0.0833 years" in viewer.header(image(header={"age": 1 / 12}).radiograph)
