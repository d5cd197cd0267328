"""Shares: Shapley's own properties, and the sum on a real bundle."""

import numpy as np
import pytest
import torch

from cxr_mm.core.errors import InputError
from cxr_mm.core.study import Study
from cxr_mm.core.types import MODALITIES
from cxr_mm.explain.subject import Subject, modality_shares
from cxr_mm.inference.shares import coalitions, shapley


@pytest.mark.parametrize("players", [0, 1, 2, 3])
def test_shares_add_up_for_any_game(players):
    values = np.random.default_rng(players).normal(size=(2**players, 4))
    shares = shapley(values)
    assert shares.shape == (players, 4)
    np.testing.assert_allclose(values[0] + shares.sum(0), values[-1], atol=1e-12)


def test_an_additive_game_gives_each_player_its_own_weight():
    weights = np.array([0.5, -2.0, 3.0])
    values = (coalitions(3) @ weights)[:, None] + 7.0
    np.testing.assert_allclose(shapley(values)[:, 0], weights)


def test_an_interaction_is_split_evenly_and_a_dummy_gets_nothing():
    both = coalitions(3)[:, :2].all(axis=1).astype(float)[:, None]
    np.testing.assert_allclose(shapley(both)[:, 0], [0.5, 0.5, 0.0])


def test_shares_are_symmetric_in_the_players():
    values = np.random.default_rng(3).normal(size=(8, 1))
    order = [2, 0, 1]
    members = coalitions(3)
    renamed = np.zeros_like(values)
    for row, bits in enumerate(members):
        renamed[sum(1 << k for k, p in enumerate(order) if bits[p])] = values[row]
    np.testing.assert_allclose(shapley(renamed)[:, 0], shapley(values)[order, 0])


def studies(bundle):
    image = np.random.default_rng(0).random((90, 70), dtype=np.float32)
    number = next(f for f in bundle.task.clinical if f.type == "number")
    clinical = {number.name: (number.minimum + number.maximum) / 2}
    return {
        ("image",): Study("s", image=image),
        ("tabular", "note"): Study("s", clinical=clinical, note="Fever and cough."),
        MODALITIES: Study("s", image=image, clinical=clinical, note="Fever and cough."),
    }


@pytest.mark.parametrize("present", [("image",), ("tabular", "note"), MODALITIES])
def test_shares_add_up_to_the_logit_of_the_bundle(bundle, present):
    study = studies(bundle)[present]
    said = modality_shares(Subject(bundle, study))
    batch = bundle.encode([study]).batch
    with torch.inference_mode():
        logits = bundle.logits(bundle.embeddings(batch), batch.mask).numpy()[0]
    assert tuple(said) == bundle.task.finding_names
    for explanation, logit in zip(said.values(), logits, strict=True):
        assert tuple(explanation.shares) == present
        total = explanation.base + sum(explanation.shares.values())
        assert total == pytest.approx(explanation.logit, abs=1e-5)
        assert explanation.logit == pytest.approx(float(logit), abs=1e-4)
        chances = explanation.base_probability + sum(explanation.probability_shares.values())
        assert chances == pytest.approx(explanation.probability, abs=1e-5)
        assert explanation.probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)


def test_a_study_with_nothing_to_go_by_says_what_there_could_be(bundle):
    with pytest.raises(InputError, match="image, tabular, note"):
        Subject(bundle, Study("s", clinical={"age": None}))
