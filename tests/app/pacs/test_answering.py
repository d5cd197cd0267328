"""Answering: what the model says of one image, with a map only where someone gets one."""

import pytest

from app.pacs.answering import Answering, leading_finding
from app.pacs.header import HeaderReader
from app.service import InferenceService
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.inference.predictor import load_predictor
from tests.app.pacs.conftest import radiograph


@pytest.fixture
def ask(bundle_folder, pipeline, tmp_path):
    """Answers one synthetic image, with or without a picture."""
    image = next(iter(sorted(pipeline.paths.root.rglob("images/*.png"))))
    path = tmp_path / "image.dcm"
    pixels = (read_radiograph(image).pixels * 4095).astype("u2")
    radiograph("1.2.3", pixels=pixels).save_as(path, enforce_file_format=True)
    service = InferenceService(load_predictor(bundle_folder), None, source="pacs")
    with HeaderReader() as headers:
        header = headers.read(path, "image")
    answering = Answering({bundle_folder: service}, "rules")
    return lambda picture: answering.result(bundle_folder, path, header, picture=picture)


def test_a_map_is_drawn_and_named_where_a_picture_is_wanted(ask):
    result = ask(True)
    assert (result.map_image.ndim, result.picture.ndim) == (3, 2)
    leading = leading_finding(result.answer.prediction.findings)
    assert result.map_title.startswith(f"Grad-CAM: {leading.title}. ")
    assert "measured" in result.map_title  # how far it is faithful, or that no one knows


def test_nothing_is_explained_where_no_one_gets_it(ask, monkeypatch):
    monkeypatch.setattr(InferenceService, "explained", None)  # not callable
    result = ask(False)
    assert (result.map_image, result.map_title, result.region) == (None, "", None)
    assert result.answer.prediction.findings
