import numpy as np

from cxr_mm.evaluation.metrics import Scored, auc
from cxr_mm.evaluation.shortcuts import linear_probe


def auc_of(answers, scores):
    return auc(Scored(answers.astype(float), scores, scores > 0))[0]


def test_a_trait_is_read_and_noise_is_not():
    rng = np.random.default_rng(0)
    answers = rng.random(240) < 0.4
    features = rng.normal(size=(240, 50))
    groups = np.arange(240).astype(object)
    assert 0.38 < auc_of(answers, linear_probe(features, answers, groups, 5, 0)) < 0.62
    features[:, 7] += 2 * answers
    assert auc_of(answers, linear_probe(features, answers, groups, 5, 0)) > 0.8


def test_a_patients_images_do_not_tell_of_each_other():
    """Each patient has a look of their own and a random answer: only leakage could read it."""
    rng = np.random.default_rng(1)
    who = np.repeat(np.arange(60), 4)
    features = rng.normal(size=(60, 200))[who] + 0.01 * rng.normal(size=(240, 200))
    answers = (rng.random(60) < 0.5)[who]
    separate = auc_of(answers, linear_probe(features, answers, who.astype(object), 5, 0))
    leaking = auc_of(answers, linear_probe(features, answers, np.arange(240).astype(object), 5, 0))
    assert separate < 0.7 < 0.95 < leaking


def test_too_few_patients_give_none():
    features, answers = np.zeros((20, 2)), np.arange(20) < 10
    assert linear_probe(features, answers, (np.arange(20) % 4).astype(object), 5, 0) is None
