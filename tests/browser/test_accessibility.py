"""Accessibility by axe-core (WCAG 2 A and AA), in a real browser, light and dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.test_reading import opened, predict

RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa"]},
    # Gradio names the place of an image that is not there yet, and gives it no role.
    "rules": {"aria-prohibited-attr": {"enabled": False}},
}


def violations(window):
    found = Axe().run(window, options=RULES).response["violations"]
    return {each["id"]: [node["html"][:160] for node in each["nodes"]][:3] for each in found}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_answered_page_breaks_no_rule(window, site, scheme):
    window.emulate_media(color_scheme=scheme)
    opened(window, site.url)
    window.get_by_label("Clinical note").fill("Fever and cough, no effusion.")
    predict(window)
    window.wait_for_selector(".cxr-word")
    window.wait_for_timeout(1000)
    assert violations(window) == {}


def test_every_tab_breaks_no_rule(window, site):
    opened(window, site.url)
    for name in ("Worklist", "Compare", "Model health"):
        window.get_by_role("tab", name=name).click()
        window.wait_for_timeout(500)
        assert violations(window) == {}, name
