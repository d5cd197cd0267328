"""Made-up predictions whose truth is known: the gate must see it."""

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import InputError
from monitoring.retraining.comparison import FROZEN, NEWEST, Margins, Sample, decide

PARAMS, FEW_RESAMPLES = EvaluateParams(bootstrap=400), EvaluateParams(bootstrap=100)
N = 3000


def predictions(truth, noise, seed, *, shift=0.0):
    """A table of probabilities that follow the truth, the worse the more noise."""
    rng = np.random.default_rng(seed)
    logit = 2.0 * (2 * truth["label"] - 1) + truth["own"] + noise * rng.normal(size=len(truth))
    # Twice the mean over the variance is the log of the likelihood ratio, so it is calibrated but
    # for the prevalence.
    results = 2 * 2.0 * logit / (1 + noise**2) + np.log(0.4 / 0.6)
    probability = 1 / (1 + np.exp(-results - shift))
    return pd.DataFrame(
        {
            "study_id": truth["study_id"],
            "group": truth["group"],
            "label.effusion": truth["label"],
            "probability.effusion": probability,
            "positive.effusion": probability > 0.5,
        }
    )


def truth_of(seed, n=N):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "study_id": [f"s{seed}-{i}" for i in range(n)],
            "group": [f"p{i // 2}" for i in range(n)],
            "label": (rng.random(n) < 0.4).astype(float),
            "own": rng.normal(size=n),
            "sex": np.where(rng.random(n) < 0.5, "F", "M"),
        }
    )


def sample(name, seed, champion, challenger, n=N, **options):
    """Both on the same studies, `own` noise shared; noise may be a function of the truth."""
    truth = truth_of(seed, n)
    noises = [noise(truth) if callable(noise) else noise for noise in (champion, challenger)]
    tables = [predictions(truth, noise, seed + k) for k, noise in enumerate(noises, start=1)]
    if "shift" in options:
        tables[1] = predictions(truth, noises[1], seed + 2, shift=options["shift"])
    return Sample(name, *tables, truth.set_index("study_id")[["sex"]])


def decided(frozen, newest, params=PARAMS):
    return decide([frozen, newest], ["effusion"], params, Margins())


def line(said, sample, group="all", metric="auc"):
    (found,) = [
        one for one in said.lines if (one.sample, one.group, one.metric) == (sample, group, metric)
    ]
    return found


def test_an_equal_challenger_is_no_worse_and_not_better():
    result = decided(sample(FROZEN, 10, 1.0, 1.0), sample(NEWEST, 20, 1.0, 1.0))
    assert result.outcome == "non-inferior"
    assert {one.state for one in result.lines} == {"non-inferior"}


def test_a_challenger_that_is_the_champion_is_no_worse():
    one, other = sample(FROZEN, 10, 1.0, 1.0), sample(NEWEST, 20, 1.0, 1.0)
    same = [Sample(s.name, s.champion, s.champion, s.traits) for s in (one, other)]
    assert decide(same, ["effusion"], PARAMS, Margins()).outcome == "non-inferior"


def test_a_challenger_that_is_better_on_the_newest_is_better():
    result = decided(sample(FROZEN, 10, 1.0, 1.0), sample(NEWEST, 20, 2.0, 1.0))
    assert result.outcome == "better"
    assert "newest" in result.reasons[0]
    assert line(result, NEWEST).p_holm < 0.05


def test_better_on_the_frozen_test_alone_is_no_more_than_no_worse():
    result = decided(sample(FROZEN, 10, 2.0, 1.0), sample(NEWEST, 20, 1.0, 1.0))
    assert result.outcome == "non-inferior"


@pytest.mark.parametrize("where", [FROZEN, NEWEST])
def test_an_inferior_challenger_is_rejected_wherever_it_is(where):
    worse = {FROZEN: (1.0, 1.0), NEWEST: (1.0, 1.0), where: (1.0, 2.0)}
    result = decided(sample(FROZEN, 10, *worse[FROZEN]), sample(NEWEST, 20, *worse[NEWEST]))
    assert result.outcome == "rejected"
    assert line(result, where).state == "worse"
    assert any(f"AUC of effusion, {where} is worse" in reason for reason in result.reasons)


def test_better_overall_but_worse_in_one_subgroup_is_rejected_and_the_subgroup_named():
    def harmed(truth):
        return np.where(truth["sex"] == "F", 2.5, 0.2)

    result = decided(sample(FROZEN, 10, 1.5, 1.5), sample(NEWEST, 20, 1.3, harmed))
    assert line(result, NEWEST).state == "non-inferior"
    assert result.outcome == "rejected"
    assert [one.group for one in result.lines if one.state == "worse"] == ["sex: F"]
    assert any("sex: F" in reason for reason in result.reasons)


def test_a_challenger_out_of_calibration_is_rejected():
    newest = sample(NEWEST, 20, 1.0, 1.0, shift=1.5)
    result = decided(sample(FROZEN, 10, 1.0, 1.0), newest)
    assert line(result, NEWEST).state == "non-inferior"
    assert {line(result, NEWEST, metric=m).state for m in ("brier", "ece")} == {"worse"}
    assert result.outcome == "rejected"


def test_too_few_studies_are_no_proof():
    result = decided(sample(FROZEN, 10, 1.0, 1.0, n=60), sample(NEWEST, 20, 1.0, 1.0))
    assert result.outcome == "rejected"
    assert any("so few studies" in reason for reason in result.reasons)


def test_a_small_subgroup_is_said_and_not_judged():
    newest = sample(NEWEST, 20, 1.0, 1.0)
    few = newest.traits.assign(sex=["other"] * 30 + ["F"] * (N - 30))
    newest = Sample(NEWEST, newest.champion, newest.challenger, few)
    result = decided(sample(FROZEN, 10, 1.0, 1.0), newest)
    assert line(result, NEWEST, "sex: other").state == "too few"
    assert line(result, NEWEST, "sex: other").n == 30
    assert result.outcome == "non-inferior"


def test_a_small_subgroup_that_is_plainly_worse_rejects():
    def ruined(truth):
        return np.where(truth.index < 150, 12.0, 1.0)

    newest = sample(NEWEST, 20, 1.0, ruined)
    few = newest.traits.assign(sex=["other"] * 150 + ["F"] * (N - 150))
    newest = Sample(NEWEST, newest.champion, newest.challenger, few)
    result = decided(sample(FROZEN, 10, 1.0, 1.0), newest)
    found = line(result, NEWEST, "sex: other")
    assert found.state == "worse"
    assert found.p_holm < 0.05
    assert result.outcome == "rejected"


def test_better_where_it_drifted_counts_only_where_drift_was_seen():
    def helped(truth):
        return np.where(truth["sex"] == "F", 1.0, 1.45)

    def before(truth):
        return np.where(truth["sex"] == "F", 1.4, 1.0)

    frozen = sample(FROZEN, 10, 1.0, 1.0)
    newest = sample(NEWEST, 20, before, helped)
    wide = Margins(auc=0.1, subgroup_auc=0.2, brier=0.1, ece=0.1)
    unseen = decide([frozen, newest], ["effusion"], PARAMS, wide)
    assert unseen.outcome == "worse by less than the margin"
    assert any("sex: M is worse by less than the margin of 0.2" in r for r in unseen.reasons)
    seen = decide([frozen, newest], ["effusion"], PARAMS, wide, {"sex"})
    assert seen.outcome == "better"
    assert "sex: F" in seen.reasons[0]


def test_the_share_of_equal_challengers_that_pass_and_of_inferior_ones_that_do_not():
    outcomes = {"equal": [], "inferior": []}
    for seed in range(0, 150, 30):
        for name, noise in (("equal", 1.0), ("inferior", 1.35)):
            newest = sample(NEWEST, seed, 1.0, 1.0)
            frozen = sample(FROZEN, seed + 15, 1.0, noise)
            outcomes[name].append(decided(frozen, newest, FEW_RESAMPLES).outcome)
    assert outcomes["equal"].count("rejected") <= 1
    assert outcomes["inferior"].count("rejected") >= 4


def test_labels_that_differ_are_an_error():
    newest = sample(NEWEST, 20, 1.0, 1.0)
    other = newest.challenger.assign(**{"label.effusion": 1.0})
    with pytest.raises(InputError, match="different labels"):
        decided(newest, Sample(NEWEST, newest.champion, other, newest.traits))


def test_only_studies_that_both_predicted_count():
    frozen, newest = sample(FROZEN, 10, 1.0, 1.0), sample(NEWEST, 20, 1.0, 1.0)
    part = Sample(FROZEN, frozen.champion[:2800], frozen.challenger[200:], frozen.traits)
    assert line(decided(part, newest), FROZEN).n == 2600
    separate = Sample(FROZEN, frozen.champion[:100], frozen.challenger[200:], frozen.traits)
    with pytest.raises(InputError, match="no study in common"):
        decided(separate, newest)
