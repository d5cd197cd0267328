"""Many challengers of one frozen test: together they cannot lose more than the margin."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from cxr_mm.core.config import EvaluateParams
from monitoring.retraining.budget import BUDGET, attempt_of, frozen_digest, level
from monitoring.retraining.change_record import Model, read_records, record_id
from monitoring.retraining.comparison import FROZEN, FROZEN_FIRST, Margins, Sample, decide

PARAMS = EvaluateParams(bootstrap=100)
LOOSE = Margins(auc=0.02, brier=0.2, ece=0.2)
N, STEPS, SEQUENCES = 4000, 6, 8
NOISE = 0.33
"""Of each challenger beyond the one before: AUC 0.93, 0.92 ... 0.87."""


def lineage(seed):
    """Labels, and the scores of a first version and of six challengers, each a little noisier."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(N) < 0.4).astype(float)
    scores = [2.09 * labels + rng.normal(size=N)]
    for _ in range(STEPS):
        scores.append(scores[-1] + NOISE * rng.normal(size=N))
    return labels, scores


def table(labels, scores):
    probability = 1 / (1 + np.exp(-scores))
    return pd.DataFrame(
        {
            "study_id": [str(i) for i in range(N)],
            "group": [str(i) for i in range(N)],
            "label.effusion": labels,
            "probability.effusion": probability,
            "positive.effusion": probability > 0.5,
        }
    )


def passed(labels, scores, *, with_first, spent):
    """Number of the last challenger that was promoted; 0 where none was."""
    tables = [table(labels, each) for each in scores]
    traits, serving = pd.DataFrame(index=tables[0]["study_id"]), 0
    for number in range(1, STEPS + 1):
        samples = [Sample(FROZEN, tables[serving], tables[number], traits)]
        if with_first and serving:
            samples.append(Sample(FROZEN_FIRST, tables[0], tables[number], traits))
        attempt = number if spent else 1
        if decide(samples, ["effusion"], PARAMS, LOOSE, (), attempt).outcome != "rejected":
            serving = number
    return serving


def true_auc(number):
    return norm.cdf(2.09 / np.sqrt(2 * (1 + number * NOISE**2)))


def test_six_challengers_in_a_row_cannot_lead_beyond_the_margin():
    losses = [true_auc(0) - true_auc(number) for number in range(STEPS + 1)]
    assert losses[-1] > 2.5 * LOOSE.auc
    beyond, before = 0, 0
    for seed in range(SEQUENCES):
        labels, scores = lineage(seed)
        beyond += losses[passed(labels, scores, with_first=True, spent=True)] > LOOSE.auc
        before += losses[passed(labels, scores, with_first=False, spent=False)] > LOOSE.auc
    assert before >= 0.9 * SEQUENCES  # against the champion alone, steps of half the margin pass
    assert beyond <= 1  # expected at most 0.025 x 8 = 0.2; 2 or more has a chance of 2 %


def test_at_the_margin_itself_all_challengers_together_pass_within_the_budget():
    """A loss of exactly the margin, judged twenty times on one frozen test by new challengers."""
    rng, trials = np.random.default_rng(0), 4000
    shared = rng.normal(size=(trials, 1))
    z = 0.7 * shared + np.sqrt(1 - 0.7**2) * rng.normal(size=(trials, 20))
    limits = np.array([level(k) for k in range(1, 21)])
    once = (norm.sf(z) < BUDGET).any(axis=1).mean()
    spent = (norm.sf(z) < limits).any(axis=1).mean()
    assert once > 0.1
    assert spent <= BUDGET + 2 * np.sqrt(BUDGET / trials)


def test_the_levels_of_all_challengers_add_up_to_the_budget():
    levels = [level(k) for k in range(1, 100_001)]
    assert levels[0] == pytest.approx(0.025 * 6 / np.pi**2)
    assert levels[5] == pytest.approx(levels[0] / 36)
    assert 0.9999 * BUDGET < sum(levels) < BUDGET


def test_each_challenger_of_a_frozen_test_has_its_number(project, make_record):
    frozen, other = frozen_digest(["b", "a"]), frozen_digest(["c"])
    assert frozen == frozen_digest(["a", "b"]) != other
    assert attempt_of([], frozen, "champion", "challenger") == 1
    first = make_record(project, frozen=frozen)
    champion = first.champion.digest
    for number, (digest, test) in enumerate((("1" * 64, frozen), ("2" * 64, other)), 1):
        when = first.made_at + timedelta(days=number)
        model = Model(digest=digest, name="m", folder="f")
        changes = {"id": record_id(when, digest), "made_at": when, "frozen": test}
        make_record(project, challenger=model, **changes)
    records = read_records("synthetic", project)
    assert len(records) == 3
    assert attempt_of(records, frozen, champion, "3" * 64) == 3
    assert attempt_of(records, other, champion, "3" * 64) == 2
    assert attempt_of(records, frozen, champion, first.challenger.digest) == 1
