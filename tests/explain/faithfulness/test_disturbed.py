"""Disturbed: a little noise stays a little, shuffled weights are the same in another order."""

import numpy as np
import torch

from cxr_mm.explain.faithfulness.metrics import DEPTHS, randomised, with_noise


def test_noise_is_small_seeded_and_within_range(bundle, a_study):
    study = a_study(0)
    one, again, other = (with_noise(bundle, study, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.image, again.image)
    assert 0 < np.abs(one.image - study.image).mean() < 0.02
    assert one.image.min() >= 0
    assert one.image.max() <= 1
    assert one.clinical["age"] != study.clinical["age"]
    assert abs(one.clinical["age"] - study.clinical["age"]) < 8
    assert one.clinical["sex"] == "female"
    assert one.clinical["crp"] is None
    assert len(one.note.split()) < len(study.note.split())
    assert other.note != one.note or other.clinical != one.clinical


def test_weights_are_shuffled_down_to_the_depth_and_the_bundle_stays(bundle):
    before = {n: w.clone() for n, w in bundle.image_encoder.state_dict().items()}
    shuffled = {depth: randomised(bundle, depth, seed=0) for depth in DEPTHS}
    for depth, other in shuffled.items():
        head, own = (next(each.fusion.network.parameters()) for each in (other, bundle))
        assert not torch.equal(head, own)
        assert torch.equal(head.flatten().sort().values, own.flatten().sort().values)
        parts = [
            torch.equal(mine, theirs)
            for mine, theirs in zip(
                bundle.image_encoder.backbone.parameters(),
                other.image_encoder.backbone.parameters(),
                strict=True,
            )
        ]
        same = {"fusion": 1.0, "upper": 0.5, "all": 0.0}[depth]
        assert abs(np.mean(parts) - same) < 0.1
    after = bundle.image_encoder.state_dict()
    assert all(torch.equal(after[name], weights) for name, weights in before.items())
