"""Fitting the input gate: rates of refusals hold on new images, and what is no image is caught."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_mm.core.config import FuseParams
from cxr_mm.data.manifest import ABSENT, load_manifest
from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.data.split import load_split, resamples
from cxr_mm.imaging.tensors import normalise
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.models.image_encoder import build_image_encoder, load_image_encoder
from cxr_mm.models.input_gate import IMAGE, Limits
from cxr_mm.training import input_gate as fitting
from cxr_mm.training.embed import image_embeddings
from cxr_mm.training.input_gate import (
    KINDS,
    PICTURE,
    Copies,
    GateImages,
    fit_input_gate,
    gate_images,
    input_gate,
    ood_copies,
)

DIM, IMAGES = 24, 400
INVERTED = KINDS.index("inverted")


def drawn(count, seed, shift=0.0):
    """Images that vary most in a few dimensions; `shift` moves the last ones."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, DIM)) * np.linspace(3, 0.5, DIM)
    rows[:, -3:] += shift
    return rows.astype(np.float32)


def images_of(count, limiting=None, per_group=2):
    groups = np.array([f"p{n // per_group}" for n in range(count)], dtype=object)
    every = np.ones(count, bool) if limiting is None else limiting
    return GateImages(np.arange(count), np.arange(count), groups, every)


def copies_of(count, seed=7):
    """Of the first images, an inverted copy and a varied one; and some pictures."""
    embeddings = np.concatenate([drawn(count, seed, 4.0), drawn(count, seed + 1), pictures(20)])
    kind = np.repeat([INVERTED, 0, KINDS.index(PICTURE)], [count, count, 20])
    owner = np.concatenate([np.arange(count), np.arange(count), np.full(20, -1)])
    return Copies(embeddings, kind, owner)


def pictures(count):
    return np.random.default_rng(99).normal(-9, 1, (count, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def gate():
    return fit_input_gate(drawn(IMAGES, 0), images_of(IMAGES), copies_of(150), 0)[0]


def refused(gate, rows):
    return np.mean(
        [gate_decision is not None and gate_decision.refused for gate_decision in gate.check(rows)]
    )


def test_of_new_images_hardly_any_is_refused_and_few_are_warned_of(gate):
    new = drawn(4000, 11)
    assert refused(gate, new) <= 0.02
    assert np.mean([gate_decision is not None for gate_decision in gate.check(new)]) <= 0.05


def test_what_copies_taught_is_caught_in_new_images_and_named(gate):
    gate_decisions = gate.check(drawn(300, 12, 4.0))
    assert (
        np.mean(
            [
                gate_decision is not None and gate_decision.refused
                for gate_decision in gate_decisions
            ]
        )
        > 0.95
    )
    assert {gate_decision.looks_like for gate_decision in gate_decisions if gate_decision} == {
        "inverted"
    }


def test_what_no_copy_resembles_is_caught_by_its_distance(gate):
    strange = drawn(100, 13)
    strange[:, 12:18] += 15 * np.random.default_rng(0).choice([-1, 1], (100, 6))
    assert refused(gate, strange) > 0.8


def test_a_laxer_rate_warns_of_more(gate, monkeypatch):
    new = drawn(3000, 11)
    monkeypatch.setattr(fitting, "REFUSE_RATE", 0.1)
    monkeypatch.setattr(fitting, "WARN_RATE", 0.3)
    other, _ = fit_input_gate(drawn(IMAGES, 0), images_of(IMAGES), copies_of(150), 0)
    flagged = [np.mean([d is not None for d in g.check(new)]) for g in (gate, other)]
    assert flagged[0] < flagged[1] < 0.35


def test_a_training_image_that_is_none_is_found():
    rows = drawn(IMAGES, 0)
    rows[[5, 70], -3:] += 5
    _, refused = fit_input_gate(rows, images_of(IMAGES), copies_of(150), 0)
    assert {5, 70} <= set(refused)
    assert len(refused) < 8


def test_odd_training_images_are_named(caplog):
    manifest = SimpleNamespace(
        frame=pd.DataFrame({"pixel_row": [2, 0, 1], "study_id": ["s2", "s0", "s1"]})
    )
    fitting._warn_of(manifest, np.array([], np.int64))
    assert not caplog.records
    fitting._warn_of(manifest, np.array([0, 2]))
    assert caplog.messages == [
        "training images that look upside down or out of distribution: s2, s0. Look at them; turn, "
        "replace or remove those that are wrong, then run ingest again; good ones may stay"
    ]


def tailed(seed=0):
    """Scores whose tail is exponential, as limits take it to be."""
    return np.random.default_rng(seed).exponential(size=(600, 2)) * [1.0, 3.0]


def test_limits_are_the_quantiles_of_the_rate_shared_by_both_scores():
    limits = fitting._limits(tailed(), 0.005, -9.0)
    assert limits.ood_score == pytest.approx(-math.log(0.0025), rel=0.15)
    assert limits.distance == pytest.approx(-3 * math.log(0.0025), rel=0.15)
    common = fitting._limits(tailed(), 0.5, -9.0)
    assert common.ood_score == pytest.approx(-math.log(0.25), rel=0.15)


def test_a_few_training_images_that_are_none_do_not_move_the_limits():
    scores = tailed()
    scores[:2] += 50
    stored, moved = (fitting._limits(s, 0.005, -9.0) for s in (tailed(), scores))
    assert moved.ood_score == pytest.approx(stored.ood_score, rel=0.15)
    assert moved.distance == pytest.approx(stored.distance, rel=0.3)


def test_no_image_is_refused_that_looks_more_like_an_image_than_not():
    assert fitting._limits(tailed() - 90, 0.005, 0.0).ood_score == 0.0


def test_far_pictures_give_images_of_other_hospitals_room():
    tight = Limits(ood_score=0.0, distance=1.0)
    assert fitting._between(tight, np.full(8, 3.0)).distance == 2.0
    assert fitting._between(tight, np.full(8, -3.0)) == tight


def test_valid_copies_of_other_patients_are_hardly_ever_refused():
    """Varied copies are moved as images of another hospital are; nothing else says so."""
    moved = drawn(150, 21) + np.linspace(0, 6, DIM, dtype=np.float32)
    known = copies_of(150)
    known.embeddings[known.kind == 0] = moved
    gate, _ = fit_input_gate(drawn(IMAGES, 0), images_of(IMAGES), known, 0)
    elsewhere = drawn(2000, 22) + np.linspace(0, 6, DIM, dtype=np.float32)
    assert refused(gate, elsewhere) <= 0.03
    assert refused(gate, drawn(300, 12, 14.0)) > 0.9
    assert gate.spec.copies == 150
    assert gate.spec.copies_rejected <= 5


def test_a_kind_is_rejected_where_few_of_its_copies_are_missed_and_no_image_is_met():
    valid = np.tile(np.linspace(-9, -5, 1000)[:, None], len(KINDS))
    near, far = np.linspace(-6, 2, 1000), np.linspace(0, 8, 1000)
    copied = np.tile(np.concatenate([near, far])[:, None], len(KINDS))
    kind = np.repeat([INVERTED, KINDS.index("cropped")], 1000)
    offsets = fitting._offsets(valid, copied, kind)
    upper = np.quantile(valid[:, 0], 1 - fitting.REFUSE_RATE)
    assert offsets[INVERTED - 1] == pytest.approx(max(upper, np.quantile(near, fitting.MISSED)))
    overlapping = fitting._offsets(valid + 20, copied, kind)
    assert overlapping[INVERTED - 1] == fitting.EVEN_ODDS
    assert offsets[KINDS.index("cropped") - 1] == pytest.approx(np.quantile(far, fitting.MISSED))
    assert offsets[KINDS.index(PICTURE) - 1] == 0


def test_pictures_leave_real_ones_room_to_be_less_unlike():
    valid = np.tile(np.linspace(-9, -5, 1000)[:, None], len(KINDS))
    copied = np.full((50, len(KINDS)), 5.0)
    offsets = fitting._offsets(valid, copied, np.full(50, KINDS.index(PICTURE)))
    upper = np.quantile(valid[:, 0], 1 - fitting.REFUSE_RATE)
    wanted = upper + fitting.TOWARDS_PICTURES * (5 - upper)
    assert offsets[KINDS.index(PICTURE) - 1] == pytest.approx(wanted)


def test_nothing_is_rejected_without_being_warned_of():
    own, valid = tailed() - 9, tailed(1) + 5
    refuse, warn = fitting._both_limits(own, valid, np.full(8, -30.0))
    assert warn.ood_score <= refuse.ood_score
    assert warn.distance <= refuse.distance
    assert np.mean(valid[:, 1] > refuse.distance) <= 0.02


def test_only_images_that_may_set_limits_do():
    rows = drawn(IMAGES, 0)
    may = np.arange(IMAGES) % 4 == 0
    rows[may] *= 1.5
    gates = [
        fit_input_gate(rows, images_of(IMAGES, limiting), copies_of(150), 0)[0]
        for limiting in (may, ~may)
    ]
    assert [g.spec.limits_from for g in gates] == [may.sum(), (~may).sum()]
    assert gates[0].spec.warn.distance > gates[1].spec.warn.distance
    assert all(0 <= g.spec.rejected < 0.05 * g.spec.limits_from for g in gates)


def test_folds_keep_groups_whole():
    groups = np.array([f"p{n // 3}" for n in range(60)], dtype=object)
    fold = fitting._folds(groups, 0)
    assert set(fold) == set(range(fitting.FOLDS))
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups))


def test_copies_of_some_images_are_renumbered_and_pictures_stay():
    some = copies_of(10).of(np.array([7, 2]))
    assert some.owner.tolist() == [1, 0, 1, 0, *[-1] * 20]
    assert set(some.kind[:2]) == {INVERTED}
    assert len(some.embeddings) == 24


def manifest_of(pixel_rows):
    return SimpleNamespace(frame=pd.DataFrame({"pixel_row": pixel_rows}))


def test_images_are_distinct_and_those_that_set_limits_come_first(spot_params, monkeypatch):
    manifest = manifest_of([0, 1, ABSENT, 1, 2, 3, 4, 5])
    groups = np.array(list("abccdefg"), dtype=object)
    train, val = np.arange(5), np.arange(5, 8)
    learning = gate_images(manifest, groups, train, val, spot_params(trainable="all"))
    assert learning.pixel_rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert learning.limiting.tolist() == [False] * 3 + [True] * 3
    frozen = gate_images(manifest, groups, train, val, spot_params(trainable="frozen"))
    assert frozen.limiting.all()
    monkeypatch.setattr(fitting, "MOST", 4)
    fewer = gate_images(manifest, groups, train, val, spot_params(trainable="all"))
    assert fewer.limiting.tolist() == [False, True, True, True]


@pytest.fixture
def encoder(spots):
    torch.manual_seed(0)
    return build_image_encoder("small_cnn", 32, 1, weights="none").eval()


def test_copies_are_embedded_as_the_encoder_does(encoder, spots):
    rows = np.arange(10, 30)
    params = FuseParams(gate_images=8)
    created = ood_copies(encoder, open_pixels(spots.pixels), rows, params)
    assert len(created.embeddings) == 8 * (len(KINDS) + 1) + 4
    owners = {kind: created.owner[created.kind == n] for n, kind in enumerate(KINDS)}
    assert len(set(owners[IMAGE])) == 8
    assert (owners[IMAGE] == np.tile(owners["inverted"], 3)).all()
    assert all((owners[kind] == owners["inverted"]).all() for kind in KINDS[1:-1])
    assert (owners[PICTURE] == -1).all()
    square = open_pixels(spots.pixels)[rows[owners["inverted"][0]]]
    with torch.inference_mode():
        wanted = encoder(normalise(255 - square[None]))[0]
    found = created.embeddings[created.kind == INVERTED][0]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_no_gate_where_none_is_wanted_or_can_be(spot_task, spot_params, spots, caplog):
    manifest = load_manifest(spots, spot_task())
    studies = SimpleNamespace(groups=load_split(spots)["group"].to_numpy(object))
    rows, none, params = np.arange(len(manifest)), np.arange(0), spot_params()
    unwanted = params.model_copy(update={"fuse": FuseParams(gate_images=0)})
    assert input_gate(manifest, studies, rows, none, unwanted, spots) is None
    assert not caplog.records
    assert input_gate(manifest, studies, rows[:20], none, params, spots) is None
    assert "too few" in caplog.text


def test_the_gate_of_a_bundle_lets_phantoms_pass_and_refuses_what_they_are_not(pipeline):
    bundle = load_predictor(pipeline.paths.bundle).bundle
    manifest = load_manifest(pipeline.paths, pipeline.task)
    test = resamples(load_split(pipeline.paths))[0].test
    rows = manifest.frame["pixel_row"].to_numpy()[test]
    squares = open_pixels(pipeline.paths.pixels)[rows[rows != ABSENT]]
    encoder = load_image_encoder(pipeline.paths.image_encoder)

    def flagged(pictures):
        return refused(bundle.gate, image_embeddings(encoder, pictures))

    assert flagged(squares) <= 0.1
    assert flagged(255 - squares) > 0.8
    assert flagged(squares[:, ::-1]) > 0.9
    noise = np.random.default_rng(0).integers(0, 255, squares.shape).astype(np.uint8)
    assert flagged(noise) > 0.9
