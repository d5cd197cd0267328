"""Sites: one false-alarm rate over all of them, and in what they differ."""

import sys
from datetime import timedelta

import numpy as np
import pytest
from scipy.stats import fisher_exact

from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json
from cxr_mm.core.verdict import Verdict
from cxr_mm.prediction_log import open_log
from monitoring.cli import main
from monitoring.report.report import WindowRequest, report_by_site
from monitoring.report.turn import Turn
from monitoring.sites.comparison import add_up, compare, sums_of, sums_over
from monitoring.sites.family import decide_sites, evaluate_sites
from monitoring.statistics import high_score
from monitoring.verdict import decide, score
from monitoring.window import LoadedWindow
from tests.monitoring.conftest import START, whole

SITES = ("north", "<b>south</b>", "east", "west")


@pytest.fixture
def windows(window):
    """`windows({"north": {"age": 2.0}})`: a window of each site, drifted where it is named."""

    def make(drifts=None, n=60):
        drifts = drifts or {}
        return {
            site: LoadedWindow(whole(window(n, 100 + i, **drifts.get(site, {}))), ())
            for i, site in enumerate(SITES)
        }

    return make


def test_the_tail_of_a_small_sample_is_gone_on_with_and_kept_on_the_safe_side():
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=199) for _ in range(4000)]
    limits = np.array([high_score(sample, 0.001) for sample in samples])
    assert (rng.normal(size=4000) > limits).mean() <= 0.002
    assert all(high_score(s, 0.001) > high_score(s, 0.005) == s.max() for s in samples[:20])


def test_a_site_that_drifts_alarms_and_the_others_share_the_rate_among_themselves(windows, frozen):
    found = evaluate_sites(windows({"<b>south</b>": {"age": 2.0}}), frozen)
    status = {site: report.verdict.status for site, report in found.reports.items()}
    assert list(status) == list(SITES)
    assert status["<b>south</b>"] == "alarm" == found.verdict.status
    assert list(status.values()).count("alarm") == 1
    rate = frozen.params.false_alarm_rate
    assert found.rate == rate / 3
    parts = {site: sum(report.rates.values()) for site, report in found.reports.items()}
    assert parts["north"] == pytest.approx(rate / 3 / (1 + rate / 3))
    assert parts["<b>south</b>"] == pytest.approx(rate / 4 / (1 + rate / 4))
    first = found.verdict.reasons[0]
    assert first.name == "<b>south</b>/clinical.age"
    assert first.text.startswith("<b>south</b>: Age (a): median")
    assert found.verdict.headline.startswith("4 sites: alarm 1 (<b>south</b>); ")
    assert found.verdict.n == 240


def test_one_site_is_judged_as_a_window_is(windows, frozen):
    alone = {"north": windows({"north": {"age": 1.0}})["north"]}
    window = alone["north"].window
    rate = frozen.params.false_alarm_rate
    expected = decide(score(window, frozen), window, frozen, rate, ())
    assert evaluate_sites(alone, frozen).reports["north"].verdict == expected.verdict


def test_a_silent_site_is_named_as_too_small(windows, frozen, window):
    every = windows()
    every["west"] = LoadedWindow(whole(window(60, 1).iloc[:0]), ())
    found = evaluate_sites(every, frozen)
    assert found.reports["west"].verdict.status == "too_small"
    assert "too small 1 (west)" in found.verdict.headline


def test_sites_are_compared_with_interval_and_corrected_p(window, frozen):
    drifts = {"north": {"age": 0.8, "women": 0.8}, "east": {"crp_missing": 0.5}}
    sums = {
        site: sums_of(window(200, 300 + i, labelled=True, **drifts.get(site, {})), frozen)
        for i, site in enumerate(SITES)
    }
    rows = compare(sums)
    shown = {(r.site, r.quantity) for r in rows if r.is_shown}
    assert ("north", "Age (a)") in shown
    assert ("north", "Sex: F") in shown
    assert ("east", "CRP (mg/L), missing share") in shown
    age = next(r for r in rows if (r.site, r.quantity) == ("north", "Age (a)"))
    assert age.low < age.here - age.elsewhere < age.high
    assert age.low < 0.8 * 15 < age.high
    assert age.deviations == pytest.approx(0.8, abs=0.25)
    assert {"pneumonia: positive label", "pneumonia: Brier score"} <= {r.quantity for r in rows}


def test_sites_that_do_not_differ_show_nothing_more_often_than_the_level(window, frozen):
    shown = 0
    tables = [window(60, 400 + i) for i in range(40)]
    for i in range(0, 40, 2):
        sums = {str(k): sums_of(tables[i + k], frozen) for k in range(2)}
        shown += any(row.is_shown for row in compare(sums))
    assert shown <= 4  # at 5 % more are found once in 400 times


def of_two(here, elsewhere, *, share=False):
    """One of two sites that are compared by one quantity."""
    sums = {
        site: {"q": sums_over(np.asarray(x, float), np.arange(len(x)), share)}
        for site, x in (("here", here), ("elsewhere", elsewhere))
    }
    return next(row for row in compare(sums) if row.site == "here")


@pytest.mark.parametrize("hits", [0, 3, 9, 14])
def test_a_share_has_fishers_exact_test(hits):
    """A site of 100 that lacks what one in twenty has is no finding: with a normal error it was."""
    found = of_two([1] * hits + [0] * (100 - hits), [1] * 54 + [0] * 846, share=True)
    table = [[hits, 100 - hits], [54, 846]]
    tails = [fisher_exact(table, alternative=side).pvalue for side in ("less", "greater")]
    assert found.p == pytest.approx(min(1.0, 2 * 2 * min(tails)))  # of two comparisons
    assert found.low < found.here - found.elsewhere < found.high
    assert found.high - found.low > 0.05


def test_a_skewed_number_differs_as_often_as_random_parts_do():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400) ** 2
    parts = [rng.permutation(values) for _ in range(20_000)]
    parts.sort(key=lambda part: part[:40].mean())
    for place, tail in ((100, 0.005), (19_800, 0.01)):
        found = of_two(parts[place][:40], parts[place][40:])
        assert found.p == pytest.approx(2 * 2 * tail, rel=0.3)  # two tails, two comparisons


def test_what_every_study_of_one_site_and_none_of_another_has_is_shown():
    found = of_two([1] * 50, [0] * 50, share=True)
    assert found.is_shown
    assert found.deviations == pytest.approx(2)


def test_several_studies_of_a_patient_are_worth_one():
    rng = np.random.default_rng(1)
    for share in (True, False):
        values = {site: rng.random(60) for site in ("here", "elsewhere")}
        if share:
            values = {site: (x < 0.4).astype(float) for site, x in values.items()}
        p = {}
        for times in (1, 3):
            sums = {
                site: {"q": sums_over(np.repeat(x, times), np.arange(60).repeat(times), share)}
                for site, x in values.items()
            }
            p[times] = compare(sums)[0].p
        assert p[3] == pytest.approx(p[1], rel=0.15)


def test_the_error_of_a_mean_is_that_of_patients_and_days_add_up(window, frozen):
    table = window(100, 500)
    (name,) = [c.name for c in frozen.columns if c.title == "Age (a)"]
    known = table[table[name].notna()]
    single = sums_of(known.drop_duplicates("patient"), frozen)["Age (a)"]
    values = known.drop_duplicates("patient")[name]
    assert single.error == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)))
    doubled = sums_of(table.loc[table.index.repeat(2)], frozen)["Age (a)"]
    assert doubled.error == pytest.approx(sums_of(table, frozen)["Age (a)"].error)
    parts = [sums_of(table[table["patient"].map(hash) % 2 == k], frozen) for k in (0, 1)]
    both, direct = add_up(parts)["Age (a)"], sums_of(table, frozen)["Age (a)"]
    assert np.allclose(both[1:], direct[1:])


def test_the_report_by_site_has_a_verdict_and_a_page_for_all(make, bundle, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    with open_log(url) as log:
        for day in range(2):
            for i, site in enumerate(SITES[: 3 - day]):
                records, _ = make(60, 600 + 10 * day + i, age=2.0 if i == 1 else 0.0)
                moved = {"site": site}
                log.add_records(
                    r.model_copy(
                        update=moved
                        | {
                            "created_at": r.created_at + day * timedelta(days=1),
                            "study_hash": f"{day} {r.study_hash}",
                            "record_id": f"{day} {r.record_id}",
                        }
                    )
                    for r in records
                )
    folder = tmp_path / "reports"
    for day in range(2):
        since = START + day * timedelta(days=1)
        words = ["report", "--bundle", bundle, "--log", url, "--group-by", "site"]
        words += ["--since", since.isoformat(), "--until", (since + timedelta(days=1)).isoformat()]
        words += ["--out", folder / str(day)]
        monkeypatch.setattr(sys, "argv", ["monitoring", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 20
    facts = read_json(folder / "1" / "verdict.json")
    verdict = Verdict.of_facts(facts)
    assert set(verdict.sites) == set(SITES[:3])
    assert verdict.sites["east"].status == "too_small"
    assert verdict.sites["<b>south</b>"].status == "alarm"
    assert set(facts["aggregates"]) == set(SITES[:3])
    assert facts["aggregates"]["north"]["studies"] == 60
    assert {row["site"] for row in facts["differences"] if row["p"] < 0.05} == set(SITES[:2])
    page = (folder / "1" / "summary.html").read_text()
    assert "&lt;b&gt;south&lt;/b&gt;" in page
    assert "<b>south" not in page
    assert "Age (a)" in page
    assert "http" not in page


def test_a_report_in_turn_follows_the_verdict_that_it_is_given_and_announces_its_own(
    make, bundle, tmp_path, monkeypatch
):
    url, turn, seen = f"sqlite:///{tmp_path / 'log.db'}", Turn(tmp_path), []
    with open_log(url) as log:
        records, _ = make(60, 600)
        log.add_records(record.model_copy(update={"site": "north"}) for record in records)

    def decided(scores, windows, reference):
        seen.append(windows["north"].window.before)
        return decide_sites(scores, windows, reference)

    def drawn(*_):
        raise StageError("the pages cannot be drawn")

    monkeypatch.setattr("monitoring.report.report.decide_sites", decided)
    monkeypatch.setattr("monitoring.report.report.sites_page", drawn)
    north = Verdict.model_validate(
        dict.fromkeys(("n", "n_labelled"), 60)
        | {"status": "ok", "task": "made_up", "digest": "", "headline": ""}
        | {"first": None, "last": None}
    )
    turn.give(north.model_copy(update={"sites": {"north": north}}))
    assert turn.announced() is None
    days = START, START + timedelta(days=1)
    request = WindowRequest(bundle, url, None, *days, tmp_path / "report", turn=turn.folder)
    with pytest.raises(StageError, match="cannot be drawn"):
        report_by_site(request)
    assert seen == [north]
    assert set(turn.announced().sites) == {"north"}


def test_a_site_alone_is_reported_and_both_together_are_refused(
    make, bundle, tmp_path, monkeypatch, capsys
):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    with open_log(url) as log:
        for site, shift in (("north", 2.0), ("east", 0.0)):
            records, _ = make(60, 700, age=shift, prefix=site)
            log.add_records(r.model_copy(update={"site": site}) for r in records)
    monkeypatch.setattr("monitoring.report.evidently.write_page", lambda *_: None)
    codes = []
    for more in (["--site", "north"], ["--site", "east"], ["--site", "east", "--group-by", "site"]):
        words = ["report", "--bundle", bundle, "--log", url, *more, "--out", tmp_path / more[1]]
        monkeypatch.setattr(sys, "argv", ["monitoring", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        codes.append(stopped.value.code)
    assert codes[0] == 20
    assert codes[1] in (0, 10)
    assert codes[2] == 2
    assert "--group-by" in capsys.readouterr().err
