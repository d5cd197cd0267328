"""Part `pacs`: a few small images through a node, Orthanc and DCMTK."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.system import pacs, pacs_cases, pacs_peers
from cxr_mm.core.errors import StageError
from cxr_mm.imaging.radiograph import read_radiograph

SIDE = 256


@pytest.fixture
def few(monkeypatch, pipeline):
    """Few images, and the bundle of the small pipeline."""
    for name, value in {
        "ALONE": 2,
        "TOGETHER": 2,
        "FEW": 2,
        "RECEIVED": 2,
        "ROUNDS": 1,
        "WARM": 1,
        "CORES": 1,
        "WORKERS": 1,
    }.items():
        monkeypatch.setattr(pacs, name, value)
    for name, value in {"PHANTOMS": 1, "SIDE": SIDE, "WORKERS": 1}.items():
        monkeypatch.setattr(pacs_peers, name, value)
    monkeypatch.setattr(pacs_cases, "NETWORKS", (("resnet18", 32),))
    monkeypatch.setattr(pacs, "COMPRESSIONS", {})  # below
    monkeypatch.setattr(pacs, "paths_of", lambda task: pipeline.paths)


def test_every_figure_is_of_all_images(few):
    try:
        rows = pacs.measure()
    except StageError as error:
        pytest.skip(f"{error.field} is not installed")
    together = [
        "images a minute",
        "rate as a share of decode, forward and Grad-CAM",
        "rate as a share of decode, and Grad-CAM by the one forward pass",
        "processor time of decode, forward and Grad-CAM as a share of the node's",
    ]
    assert [row.metric for row in rows] == [
        "seconds, median",
        "seconds, p95",
        *2 * together,
        "rate against DCMTK's storescp",
    ]
    assert all(row.value > 0 and row.n == 2 for row in rows)
    assert [row.row for row in rows if row.must == 0.7] == [f"2 at once, {SIDE} × {SIDE}, 1 cores"]
    assert rows[1].ceiling
    assert rows[1].value >= rows[0].value


def test_the_images_are_frontal_radiographs_of_a_detector(monkeypatch, tmp_path):
    monkeypatch.setattr(pacs_peers, "PHANTOMS", 2)
    first, second = pacs_peers.radiographs()
    assert first.SOPInstanceUID != second.SOPInstanceUID
    file = tmp_path / "image.dcm"
    first.save_as(file, enforce_file_format=True)
    found = read_radiograph(file)
    assert found.pixels.shape == (2048, 2048)
    assert found.pixels.std() > 0.05


@pytest.mark.parametrize("name", pacs_cases.COMPRESSIONS)
def test_a_compressed_image_has_the_same_pixels(monkeypatch, tmp_path, name):
    monkeypatch.setattr(pacs_peers, "PHANTOMS", 1)
    monkeypatch.setattr(pacs_peers, "SIDE", SIDE)
    (image,) = pacs_peers.radiographs()
    (packed,) = pacs_cases.compressed([image], pacs_cases.COMPRESSIONS[name], tmp_path / "packed")
    assert len(packed.PixelData) < len(image.PixelData)
    file = Path(pacs_peers.file_of(packed, tmp_path / "packed.dcm"))
    whole = Path(pacs_peers.file_of(image, tmp_path / "whole.dcm"))
    assert np.array_equal(read_radiograph(file).pixels, read_radiograph(whole).pixels)
