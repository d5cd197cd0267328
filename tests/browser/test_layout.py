"""Layout in a real browser: nothing moves under the reader's hand when something arrives."""

import time

import pytest

from tests.browser.test_reading import give_image, opened, preview

GOOD = 0.1
"""Cumulative layout shift up to which a page counts as steady (web.dev, Core Web Vitals)."""
STEADY = 0.05
"""What Gradio's own sign of loading moves; a header that comes late moves a tenth."""
LATER = 0.7
"""Seconds; what moves within half a second of a click, the browser does not count."""
WATCH = """() => {
  window.shifts = [];
  new PerformanceObserver(list => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) shifts.push(entry.value);
  }).observe({type: 'layout-shift', buffered: true});
}"""
PLACES = """() => ['header', 'clinical', 'predict', 'answered', 'answer'].map(id =>
  Math.round(document.getElementById(id).getBoundingClientRect().top + window.scrollY))"""


def delayed(route):
    time.sleep(LATER)
    route.continue_()


def trickled(route):
    time.sleep(0.03)
    route.continue_()


def shifted(window):
    return window.evaluate("shifts.splice(0).reduce((sum, each) => sum + each, 0)")


@pytest.mark.parametrize("size", [(1366, 768), (390, 844), (820, 1180)])
def test_nothing_moves_when_an_answer_arrives(window, site, size):
    window.set_viewport_size({"width": size[0], "height": size[1]})
    opened(window, site.url)
    window.evaluate(WATCH)
    give_image(window, site.images[0])
    preview(window)
    window.get_by_label("Clinical note").fill("Fever and cough.")
    window.wait_for_timeout(500)
    before = window.evaluate(PLACES)
    assert shifted(window) < GOOD
    window.route("**/queue/join*", delayed)
    window.locator("#predict").click()
    window.wait_for_selector(".cxr-word")
    window.wait_for_selector("#overlay img")
    window.wait_for_timeout(500)
    assert shifted(window) < GOOD
    assert window.evaluate(PLACES) == before


@pytest.mark.parametrize("size", [(1366, 768), (390, 844)])
def test_nothing_moves_while_the_page_is_drawn(window, site, size):
    window.set_viewport_size({"width": size[0], "height": size[1]})
    window.route("**/*.js", trickled)  # the header is drawn after the form then
    window.add_init_script(f"({WATCH})()")
    opened(window, site.url)
    window.locator("#predict").wait_for(state="visible")
    window.wait_for_timeout(500)
    assert shifted(window) < STEADY
    window.evaluate("delete document.body.dataset.drawn")  # as it is until the header is there
    window.locator("#predict").wait_for(state="hidden")


def test_a_click_before_the_image_has_arrived_is_answered_with_it(window, site):
    opened(window, site.url)
    line = window.context.new_cdp_session(window)
    line.send("Network.enable")
    slow = {"offline": False, "latency": 50, "downloadThroughput": -1, "uploadThroughput": 20_000}
    line.send("Network.emulateNetworkConditions", slow)
    give_image(window, site.images[0])
    window.locator("#predict").click()
    assert not window.locator("#image-preview img").count()
    window.wait_for_selector("#answer .cxr-bar")
    preview(window)
    window.wait_for_timeout(300)
    assert "Image: used" in window.locator("#answer").inner_text()
    assert mark(window) == "none"


MASKED = "Pneumonia, consolidation and effusion on the radiograph, fever, consolidation again."
"""A note of which the form shows below the button how the model reads it."""


@pytest.mark.parametrize("size", [(1366, 768), (390, 844)])
@pytest.mark.parametrize("held", [90, 200, 300])
def test_a_click_right_after_a_note_was_typed_is_not_lost(window, site, size, held):
    window.set_viewport_size({"width": size[0], "height": size[1]})
    opened(window, site.url)
    window.get_by_label("Clinical note").click()
    window.keyboard.type(MASKED)
    button = window.locator("#predict")
    button.scroll_into_view_if_needed()
    box = button.bounding_box()
    window.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    before = window.evaluate(PLACES)
    window.mouse.down()
    window.wait_for_timeout(held)
    window.mouse.up()
    window.wait_for_selector("#answer .cxr-bar")
    window.wait_for_selector("#messages mark")
    assert window.evaluate(PLACES) == before


@pytest.mark.parametrize("size", [(1366, 768), (390, 844)])
def test_faults_move_no_control(window, site, size, tmp_path):
    window.set_viewport_size({"width": size[0], "height": size[1]})
    opened(window, site.url)
    before = window.evaluate(PLACES)
    (tmp_path / "no.png").write_text("no image")
    give_image(window, tmp_path / "no.png")
    window.wait_for_selector(".image .fault:visible")
    window.get_by_label("Clinical note").fill("word " * 10_000)
    filled = window.evaluate(PLACES)
    window.locator("#predict").click()
    window.wait_for_selector("#messages .fault:visible, .image .fault:visible")
    assert window.evaluate(PLACES) == filled
    assert filled[:2] == before[:2]


def mark(window):
    """What is written above the answer, as the browser draws it."""
    return window.evaluate(
        "getComputedStyle(document.querySelector('#answer'), '::before').content"
    )


def test_changed_inputs_are_said_where_there_is_an_answer_and_nowhere_else(window, site):
    opened(window, site.url)
    note = window.get_by_label("Clinical note")
    note.fill("Fever.")
    window.wait_for_timeout(300)
    assert mark(window) == "none"
    window.locator("#predict").click()
    window.wait_for_selector("#answer .cxr-bar")
    assert mark(window) == "none"
    before = window.evaluate(PLACES)
    note.fill("Fever and cough.")
    window.wait_for_function("document.querySelector('#answer').matches('.stale')")
    assert "The inputs have changed" in mark(window)
    assert window.evaluate(PLACES) == before
    note.fill("word " * 10_000)
    window.locator("#predict").click()
    window.wait_for_selector("#messages .fault")
    note.fill("Fever.")
    window.wait_for_timeout(300)
    assert mark(window) == "none"
