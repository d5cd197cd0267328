"""Monitoring summary in a real browser: it fits a phone."""

import pytest

from monitoring.diagnostics import Service
from monitoring.reference import freeze, load_reference
from monitoring.report.page import Page, summary_page
from monitoring.table import newest_per_study, records_table
from monitoring.verdict import evaluate_window
from tests.monitoring.conftest import DIGEST, PARAMS, TASK, made_up, whole


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    """The summary of a window that has drifted in every way, labels included."""
    folder = tmp_path_factory.mktemp("reference") / "reference"
    params = PARAMS.model_copy(update={"resamples": 20, "window_sizes": (20, 50)})
    freeze(TASK, DIGEST, *made_up(200, seed=0), params, folder)
    frozen = load_reference(folder)
    records, outcomes = made_up(120, 3, prefix="new", slope=-1.0, age=2.0)
    table = records_table(records, TASK, frozen.quality, frozen.projections, outcomes)
    window = whole(newest_per_study(table))
    service = Service((), 120, 0, 0, 0, 12.0, 1.0)
    return summary_page(Page(evaluate_window(window, frozen), frozen, window, service))


@pytest.mark.parametrize("width", [390, 320, 1366])
def test_it_fits_the_screen(window, summary, width):
    window.set_viewport_size({"width": width, "height": 844})
    window.set_content(summary)
    assert "Performance" in window.locator("body").inner_text()
    assert window.evaluate("document.documentElement.scrollWidth") <= width
