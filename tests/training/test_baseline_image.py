"""Background image: the model answers it as it answers the average image, unlike a blurred one."""

import numpy as np
import torch

from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.explain.games import blurred
from cxr_mm.imaging.tensors import normalise
from cxr_mm.models.bundle import Batch, load_bundle
from cxr_mm.models.calibration import subset_mask


def logits(bundle, images):
    mask = subset_mask(("image",)).expand(len(images), -1)
    batch = Batch(
        mask=mask,
        image=images,
        tabular=torch.zeros(len(images), bundle.fusion.spec.dims["tabular"]),
        note=torch.zeros(len(images), bundle.fusion.spec.dims["note"]),
    )
    with torch.inference_mode():
        return bundle.logits(bundle.embeddings(batch), mask)


def test_it_is_answered_like_an_average_image(pipeline):
    bundle = load_bundle(pipeline.paths.bundle)
    images = normalise(np.asarray(open_pixels(pipeline.paths.pixels))[:100])
    real = logits(bundle, images)
    own = logits(bundle, normalise(bundle.baseline_image[None]))
    blur = logits(bundle, blurred(images[:20]))
    spread = real.std(0)
    far = ((own - real.mean(0)) / spread).abs().max()
    assert far < 1
    assert far < ((blur - real.mean(0)) / spread).abs().mean()


def test_it_is_no_image_of_the_cache(pipeline):
    image = load_bundle(pipeline.paths.bundle).baseline_image.astype(float)
    pixels = np.asarray(open_pixels(pipeline.paths.pixels)).astype(float)
    likeness = [np.corrcoef(image.ravel(), other.ravel())[0, 1] for other in pixels]
    assert max(likeness) < 0.995
