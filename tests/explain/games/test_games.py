"""Games on a real bundle: what all and no one are worth, and that nothing is asked twice."""

import numpy as np
import pytest
import torch

from cxr_mm.core.errors import CancelledError, InputError, NoteError
from cxr_mm.core.progress import Progress
from cxr_mm.core.study import Study
from cxr_mm.core.types import MODALITIES
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.games import ClinicalGame, ImageGame, NoteGame, background, grid, superpixels
from cxr_mm.explain.subject import Subject


def image_game(subject, target, cells=4):
    return ImageGame(subject, target, grid(subject, cells))


makers = pytest.mark.parametrize("make", [image_game, ClinicalGame, NoteGame])


@pytest.fixture
def target(bundle):
    return Target(bundle.task.finding_names[1])


@makers
def test_all_are_worth_the_prediction_s_own_logit(bundle, subject, target, make):
    game = make(subject, target)
    with torch.inference_mode():
        logits = bundle.logits(bundle.embeddings(subject.batch), subject.batch.mask)
    everyone = np.ones((1, len(game.names)), dtype=bool)
    assert game.values(everyone)[0] == pytest.approx(float(logits[0, 1]), abs=1e-5)


@makers
def test_no_coalition_is_asked_twice_nor_for_another_finding(bundle, subject, target, make):
    game = make(subject, target)
    stored = np.random.default_rng(0).integers(0, 2, (12, len(game.names))).astype(bool)
    stored[0] = False
    first = game.values(np.concatenate([stored, stored]))
    np.testing.assert_array_equal(first[:12], first[12:])
    requested = game.queries
    other = make(subject, Target(bundle.task.finding_names[0]))
    assert not np.array_equal(other.values(stored), first[:12])
    assert (other.queries, game.queries) == (0, requested)


@makers
def test_a_study_without_the_modality_is_refused_by_name(bundle, target, make):
    given = {"image": {"note": "Fever."}, "tabular": {"note": "Fever."}, "note": {}}
    modality = {image_game: "image", ClinicalGame: "tabular", NoteGame: "note"}[make]
    study = Study("s", clinical={"age": 50.0} if modality != "tabular" else {}, **given[modality])
    with pytest.raises(InputError, match=modality):
        make(Subject(bundle, study), target)


def test_nobody_of_the_words_is_an_absent_note(subject, target):
    without = subject.mask.clone()
    without[:, MODALITIES.index("note")] = False
    assert NoteGame(subject, target).base == pytest.approx(float(subject.with_mask(without)[0, 1]))


def test_a_note_of_hidden_words_alone_has_none_to_explain(bundle, target):
    study = Study("s", note="--- ...", clinical={"age": 50.0})
    with pytest.raises(NoteError, match="no word"):
        NoteGame(Subject(bundle, study), target)


def test_nobody_of_the_features_is_the_mean_over_the_background(bundle, subject, target):
    game = ClinicalGame(subject, target)
    vectors = torch.from_numpy(bundle.clinical.apply(bundle.background))
    assert game.base == pytest.approx(float(subject.of_clinical(vectors)[:, 1].mean()), abs=1e-5)


def test_nobody_of_the_regions_is_the_image_of_nobody_in_this_image_s_place(subject):
    image = background(subject)
    rows, columns = subject.image_box
    assert image.shape == subject.batch.image.shape
    beside = image.clone()
    beside[..., rows, columns] = -1
    assert bool((beside == -1).all())  # black
    assert float(image[..., rows, columns].std()) > 0.05


def test_regions_cover_the_image_and_no_more(subject):
    for regions in (grid(subject, 7), superpixels(subject, 20)):
        inside = regions[subject.image_box]
        assert inside.min() == 0
        assert set(np.unique(inside)) == set(range(inside.max() + 1))
        assert (regions >= 0).sum() == inside.size


def test_a_map_and_its_regions_lead_back_to_each_other(subject, target):
    game = image_game(subject, target)
    values = np.random.default_rng(0).normal(size=len(game.names))
    np.testing.assert_allclose(game.scores(game.painted(values)), values, atol=1e-6)


def test_whoever_waits_is_told_and_may_stop(subject, target):
    message = []
    progress = Progress(
        callback=lambda done, total: message.append((done, total)),
        cancelled=lambda: len(message) > 1,
    )
    game = ImageGame(subject, target, grid(subject, 8), progress)
    game.expected = 200
    stored = np.random.default_rng(0).integers(0, 2, (200, len(game.names))).astype(bool)
    with pytest.raises(CancelledError):
        game.values(stored)
    assert message == [(32, 200), (64, 200)]
