"""Classifier: served in one precision and memory order, with the encoder's own numbers."""

import copy

import torch
from torch import nn

from cxr_mm.models.bundle import Batch, Classifier
from cxr_mm.models.image_encoder import build_image_encoder
from cxr_mm.models.precision import SERVED


def test_the_encoder_runs_as_served_and_gives_what_it_gave():
    torch.manual_seed(0)
    encoder = build_image_encoder("small_cnn", 32, 1, weights="none").eval()
    plain, classifier = copy.deepcopy(encoder), Classifier(encoder, nn.Identity()).eval()
    assert SERVED.channels_last
    orders = [m.weight.stride(1) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert set(orders) == {1}
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    mask = torch.tensor([[True, False, False]] * 2)
    with torch.inference_mode():
        found = classifier.embeddings(Batch(mask=mask, image=images))
        assert torch.allclose(found["image"], plain(images), atol=1e-5)


def test_without_an_image_encoder_it_embeds_what_there_is():
    classifier = Classifier(None, nn.Identity())
    mask, tabular = torch.tensor([[False, True, False]]), torch.ones(1, 4)
    found = classifier.embeddings(Batch(mask=mask, tabular=tabular))
    assert list(found) == ["tabular"]
    assert found["tabular"] is tabular
