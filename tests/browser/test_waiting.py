"""Slow explanations in a real browser: they can be stopped, and whoever waits sees for what."""

import re
import time
import urllib.request
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import site_of, visitor
from tests.browser.test_reading import give_image, opened, predict, preview

WAITING = "#overlay .progress-text"
HOLDING = """
import runpy, time
from pathlib import Path
from cxr_mm.core.progress import Progress
from cxr_mm.explain.methods import LIME_IMAGE
step = Progress.step
def held(self, done, total):
    step(self, done, total)
    while total == LIME_IMAGE and Path({hold!r}).exists() and not self.cancelled():
        time.sleep(0.05)
Progress.step = held
runpy.run_module("app", run_name="__main__")
"""
"""Starts the server with a LIME that does not end before a file is gone, unless it is stopped."""
OF_AN_ANSWER = 2
"""Explanations that each answer has: of the image, and of features and note."""


@pytest.fixture(scope="module")
def site(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    with site_of(pipeline, folder, ("-c", HOLDING.format(hold=str(folder / "hold")))) as started:
        yield started


@contextmanager
def holding(site):
    """Let no LIME of the image end meanwhile."""
    hold = site.database.with_name("hold")
    hold.touch()
    try:
        yield
    finally:
        hold.unlink()


def figure(site, name):
    """One of the server's figures, over all its labels."""
    with urllib.request.urlopen(f"{site.url}metrics") as answer:
        text = answer.read().decode()
    return sum(float(n) for n in re.findall(rf"^{name}\S* (\S+)$", text, re.MULTILINE))


def explained(site):
    return figure(site, 'cxr_mm_done_total{kind="explanation"')


def idle(window, site):
    """Wait until no one waits for the model."""
    while figure(site, "cxr_mm_queue_length"):
        window.wait_for_timeout(100)


def answered(window, site, image):
    expected = explained(site) + OF_AN_ANSWER
    opened(window, site.url)
    give_image(window, image)
    preview(window)
    predict(window)
    window.wait_for_selector("#overlay img")
    until_explained(window, site, expected)
    idle(window, site)


def until_explained(window, site, number):
    """Wait until the server has explained so often, a minute at most."""
    until = time.monotonic() + 60
    while explained(site) < number and time.monotonic() < until:
        window.wait_for_timeout(100)
    assert explained(site) >= number


def choose(window, method):
    window.get_by_label("How the image is explained").click()
    window.get_by_role("option", name=re.compile(rf"^{method}( \(|$)")).click()


def stop(window):
    return window.get_by_role("button", name="Stop", exact=True)


@contextmanager
def visitors(browser, number):
    contexts = [visitor(browser) for _ in range(number)]
    yield [context.new_page() for context in contexts]
    for context in contexts:
        context.close()


def test_a_method_that_was_chosen_is_asked_for_once(window, site):
    answered(window, site, site.images[0])
    before = explained(site)
    choose(window, "LIME")
    window.wait_for_function("document.body.innerText.includes('Local fit')")
    window.get_by_label("How the image is explained").focus()
    window.keyboard.press("Tab")
    window.wait_for_timeout(1000)
    idle(window, site)
    assert explained(site) == before + 1


def test_stop_ends_the_work_on_the_server_and_leaves_the_queue_free(window, site):
    answered(window, site, site.images[1])
    before = explained(site)
    with holding(site):
        with window.expect_response("**/queue/join*"):
            choose(window, "LIME")
        window.get_by_text("Asking the model").first.wait_for()
        stop(window).click()
        window.get_by_text("Stopped. Choose a method").wait_for()
        stop(window).wait_for(state="hidden")
        idle(window, site)
    window.wait_for_timeout(2000)  # what was not stopped would end now
    assert explained(site) == before
    choose(window, "Grad-CAM")
    window.get_by_text("where the model looked").wait_for()
    assert explained(site) == before + 1


def test_another_prediction_ends_the_explanation_of_the_one_before(window, site):
    answered(window, site, site.images[2])
    before = explained(site)
    with holding(site):
        choose(window, "LIME")
        window.get_by_text("Asking the model").first.wait_for()
        with window.expect_response("**/queue/join*"):
            window.locator("#predict").click()
        window.get_by_text("Asking the model").first.wait_for()
    window.wait_for_function("document.body.innerText.includes('Local fit')")
    until_explained(window, site, before + OF_AN_ANSWER)
    idle(window, site)
    assert explained(site) == before + OF_AN_ANSWER


def test_whoever_waits_sees_the_place_in_the_queue(browser, site):
    with visitors(browser, 3) as windows:
        for window, image in zip(windows, site.images, strict=False):
            answered(window, site, image)
        with holding(site):
            for window in windows:
                choose(window, "LIME")
            last = windows[-1].locator(WAITING).first
            expect(last).to_contain_text(re.compile(r"queue: (2/2|1/1)"))
            assert windows[-1].locator(".progress-text:visible").count() == 1
        for window in windows:
            window.wait_for_function("document.body.innerText.includes('Local fit')")
            assert window.locator(WAITING).count() == 0
