"""The dashboard of a year: drawn from stored aggregates, by model and site."""

from datetime import UTC, datetime, timedelta

import pytest

from cxr_mm.core.errors import LogError
from monitoring.report.dashboard import DRAWN, write_dashboard
from monitoring.scheduler.cron import Window
from monitoring.scheduler.windows import StoredAggregate
from monitoring.sites.aggregate import Aggregate
from monitoring.sites.comparison import sums_of

START, DAY = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=1)
SITES = ("north", "<i>south</i>", "")


@pytest.fixture(scope="module")
def stored(window, frozen):
    """Ten days of three sites and, from the eighth on, of a second model."""
    drifts = {"<i>south</i>": {"age": 1.0}}
    sums = {
        site: sums_of(window(40, 900 + i, **drifts.get(site, {})), frozen)
        for i, site in enumerate(SITES)
    }
    return [
        StoredAggregate(
            "b" * 64 if day > 7 else "a" * 64,
            site,
            Window(START + day * DAY, START + (day + 1) * DAY),
            Aggregate(
                status="alarm" if site == SITES[1] else "ok",
                studies=40 + day,
                labelled=0,
                predictions=40 + day,
                refused=10,
                bad_input=0,
                failures=0,
                slowest=100.0 if site else None,
                auc=None,
                sums=sums[site] if day != 3 else {},
            ),
        )
        for day in range(10)
        for site in SITES
    ]


def test_each_model_and_site_has_a_row_with_verdicts_and_lines(stored, tmp_path):
    file = tmp_path / "made" / "dashboard.html"
    assert write_dashboard(iter(stored), "icu", file) == 30
    page = file.read_text()
    assert page.index("Model bbbb") < page.index("Model aaaa")
    assert "&lt;i&gt;south&lt;/i&gt;" in page
    assert "<i>south" not in page
    assert "no site" in page
    assert page.count("<rect") == 30
    # No AUC, and no latency of the site without a name.
    assert page.count("<polyline") == 2 * (3 * (len(DRAWN) - 1) - 1)
    assert "http" not in page
    assert "alarm 8" in page
    assert "40 to 47, last 47" in page
    assert "Age (a)" in page


def test_nothing_stored_is_one_error(tmp_path):
    with pytest.raises(LogError, match="no window"):
        write_dashboard([], "icu", tmp_path / "dashboard.html")
    assert not list(tmp_path.iterdir())
