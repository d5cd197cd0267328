"""Grad-CAM: on a real bundle, without a trace left behind, and from two threads at once."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from cxr_mm.contracts.explanation import Target
from cxr_mm.contracts.study import Study
from cxr_mm.errors import InputError
from cxr_mm.explain.deletion import deletion_advantage
from cxr_mm.explain.grad_cam import grad_cam
from cxr_mm.models.bundle import load_bundle


@pytest.fixture(scope="module")
def bundle(bundle_folder):
    return load_bundle(bundle_folder)


def study(seed):
    film = np.random.default_rng(seed).random((130, 90), dtype=np.float32)
    return Study(f"s{seed}", image=film, note="Cough and fever.")


def test_values_lie_over_the_square_between_0_and_1(bundle):
    for finding in bundle.task.finding_names:
        said = grad_cam(bundle, study(0), Target(finding))
        assert said.values.shape == (bundle.size, bundle.size)
        assert said.values.dtype == np.float32
        assert said.values.min() >= 0
        assert said.values.max() <= 1
        assert said.extra["empty"] == (said.values.max() == 0)


def test_a_finding_that_nothing_speaks_for_gives_an_empty_map(bundle):
    silent = deaf_to_the_film(bundle)
    said = grad_cam(silent, study(0), Target(silent.task.finding_names[0]))
    assert said.extra["empty"]
    assert not said.values.any()


def deaf_to_the_film(bundle):
    """The same bundle, deaf to the film: the fusion's inputs from it are scaled to nothing."""
    fusion = copy.deepcopy(bundle.fusion)
    fusion.standardise["image"].scale.fill_(float("inf"))
    return replace(bundle, fusion=fusion)


def test_no_hook_and_no_gradient_is_left_behind(bundle):
    before = {n: p.clone() for n, p in bundle.classifier.named_parameters()}
    for _ in range(3):
        grad_cam(bundle, study(1), Target(bundle.task.finding_names[0]))
    assert not any(m._forward_hooks or m._backward_hooks for m in bundle.classifier.modules())
    for name, parameter in bundle.classifier.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_two_threads_give_what_each_gives_alone_while_predictions_run(bundle):
    target = Target(bundle.task.finding_names[0])
    alone = [grad_cam(bundle, study(i), target).values for i in range(4)]

    def predict(number):
        batch = bundle.prepare([study(number)])
        return bundle.embeddings(batch)["image"].shape[0]

    with ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(predict, i) for i in range(8)]
        together = list(pool.map(lambda i: grad_cam(bundle, study(i), target).values, range(4)))
    assert all(b.result() == 1 for b in busy)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_an_unknown_finding_lists_those_that_exist(bundle):
    with pytest.raises(InputError, match=bundle.task.finding_names[0]):
        grad_cam(bundle, study(0), Target("pneumothorax_of_the_moon"))


def test_a_study_without_film_has_no_map(bundle):
    target = Target(bundle.task.finding_names[0])
    with pytest.raises(InputError, match="film"):
        grad_cam(bundle, Study("s", note="Fever."), target)


def test_deletion_is_seeded(bundle):
    target = Target(bundle.task.finding_names[0])
    values = np.random.default_rng(0).random((bundle.size, bundle.size), dtype=np.float32)
    first = deletion_advantage(bundle, study(2), target, values, seed=0)
    assert first == pytest.approx(deletion_advantage(bundle, study(2), target, values, seed=0))
    assert np.isfinite(first)
