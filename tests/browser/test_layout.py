"""Layout in a real browser: nothing moves under the reader's hand when something arrives."""

import time

import pytest

from tests.browser.test_reading import give_image, opened, preview

GOOD = 0.1
"""Cumulative layout shift up to which a page counts as steady (web.dev, Core Web Vitals)."""
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


def shifted(window):
    return window.evaluate("shifts.splice(0).reduce((sum, each) => sum + each, 0)")


@pytest.mark.parametrize("size", [(1366, 768), (390, 844), (820, 1180)])
def test_nothing_moves_when_an_answer_arrives(window, site, size):
    window.set_viewport_size({"width": size[0], "height": size[1]})
    opened(window, site)
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
