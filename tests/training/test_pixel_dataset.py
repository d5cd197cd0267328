import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from cxr_mm.core.errors import StageError
from cxr_mm.imaging.tensors import image_batches
from cxr_mm.training.pixel_dataset import PixelDataset, identity_collate


@pytest.fixture
def pixels(tmp_path):
    squares = np.random.default_rng(0).integers(0, 256, (10, 16, 16)).astype(np.uint8)
    np.save(tmp_path / "pixels.npy", squares)
    return tmp_path / "pixels.npy", squares


def test_batches_hold_the_rows_asked_for_with_their_labels(pixels):
    path, squares = pixels
    rows = np.array([7, 2, 5])
    labels = np.array([[1.0], [np.nan], [0.0]], dtype=np.float32)
    loader = DataLoader(PixelDataset(path, rows, labels), batch_size=2, collate_fn=identity_collate)
    batches = list(loader)
    assert [len(images) for images, _ in batches] == [2, 1]
    assert torch.equal(torch.cat([b[0] for b in batches]), torch.from_numpy(squares[rows]))
    assert torch.cat([b[1] for b in batches]).isnan().flatten().tolist() == [False, True, False]


def test_one_study(pixels):
    path, squares = pixels
    square, label = PixelDataset(path, np.array([3]), np.ones((1, 2), np.float32))[0]
    assert torch.equal(square, torch.from_numpy(squares[3]))
    assert label.tolist() == [1.0, 1.0]


def test_memory_does_not_grow_with_the_images_that_were_read(tmp_path):
    count, batch, side = 2_000, 50, 224
    path = tmp_path / "pixels.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (count, side, side))
    rows = np.random.default_rng(0).permutation(count)
    dataset = PixelDataset(path, rows, np.ones((count, 1), np.float32))
    loader = DataLoader(dataset, batch_size=batch, collate_fn=identity_collate)
    resident = psutil.Process().memory_info
    before, peak = resident().rss, 0
    for _ in loader:
        peak = max(peak, resident().rss)
    assert peak - before < 0.1 * count * side * side


def test_image_batches_are_normalised_and_in_order(pixels):
    _, squares = pixels
    batches = list(image_batches(squares, np.array([1, 1, 9]), 2))
    images = torch.cat(batches)
    assert images.shape == (3, 1, 16, 16)
    expected = torch.from_numpy(squares[[1, 1, 9]]).float() / 127.5 - 1
    assert torch.allclose(images[:, 0], expected, atol=1e-6)


def test_a_cache_that_is_not_there(tmp_path):
    dataset = PixelDataset(tmp_path / "no.npy", np.arange(1), np.ones((1, 1), np.float32))
    with pytest.raises(StageError, match="ingest"):
        dataset[0]
