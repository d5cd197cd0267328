import pytest
import torch

from cxr_mm.imaging.augment import augment


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def test_none_changes_nothing():
    images = torch.rand(4, 1, 32, 32) * 2 - 1
    assert augment(images, "none", drawn()) is images


@pytest.mark.parametrize("level", ["light", "strong"])
def test_shape_range_and_repeatability(level):
    images = torch.rand(16, 1, 32, 32) * 2 - 1
    stored = images.clone()
    first = augment(images, level, drawn())
    assert torch.equal(images, stored)
    assert first.shape == images.shape
    assert first.isfinite().all()
    assert first.min() >= -1
    assert first.max() <= 1
    assert torch.equal(first, augment(images, level, drawn()))
    assert not torch.equal(first, augment(images, level, drawn(1)))


def test_each_image_changes_in_its_own_way():
    images = (torch.rand(1, 1, 32, 32) * 2 - 1).expand(8, 1, 32, 32)
    changed = augment(images, "light", drawn())
    assert all(not torch.equal(changed[0], other) for other in changed[1:])


def test_light_moves_a_structure_but_little_and_flips_about_half():
    images = torch.full((64, 1, 64, 64), -1.0)
    images[:, :, 28:36, 8:16] = 1.0
    columns = augment(images, "light", drawn()).amax((1, 2)).argmax(1)
    left = (columns < 32).float().mean()
    assert 0.25 < left < 0.75
    distance = torch.minimum((columns - 8).abs(), (columns - 48).abs())
    assert distance.max() < 12


def test_strong_hides_part_of_some_images():
    images = torch.rand(64, 1, 64, 64, generator=drawn()) * 2 - 1
    changed = augment(images, "strong", drawn())
    commonest = torch.stack([(i == i.flatten().mode().values).float().mean() for i in changed])
    assert 0 < (commonest > 0.01).float().mean() < 1
