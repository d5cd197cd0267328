"""Windows drawn from the reference."""

import numpy as np

from monitoring.statistics import draw_windows, high_score

RNG = np.random.default_rng(5)


def test_windows_have_their_size_and_keep_patients_whole():
    patients = np.repeat(np.arange(30), 3)
    inside = draw_windows(patients, 20, 50, RNG)
    assert inside.shape == (50, 90)
    assert (inside.sum(axis=1) == 20).all()
    cut = [len({p for p in range(30) if 0 < w[patients == p].sum() < 3}) for w in inside]
    assert max(cut) <= 1
    assert inside.sum(axis=0).min() > 0


def test_window_takes_at_most_half():
    assert (draw_windows(np.arange(50), 400, 3, RNG).sum(axis=1) == 25).all()


def test_high_score_is_exceeded_as_seldom_as_asked():
    exceeded = [RNG.normal() > high_score(RNG.normal(size=199), rate=0.05) for _ in range(4000)]
    assert 0.035 < np.mean(exceeded) < 0.065
