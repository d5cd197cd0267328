"""Answering: what the model says of one image, with a map only where someone gets one."""

import dataclasses
from datetime import datetime

import numpy as np
import pytest
from PIL import Image, ImageDraw

from app.pacs.answering import Answering, leading_finding
from app.pacs.header import HeaderReader
from app.pacs.objects.build import build_objects
from app.service import InferenceService
from cxr_mm.imaging.radiograph import DecodedImage, read_fitted, read_radiograph
from cxr_mm.inference.predictor import Predictor, load_predictor
from cxr_mm.models.bundle import load_bundle
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
    answering = Answering({bundle_folder: service}, fitted, "rules")
    return lambda picture: answering.result(bundle_folder, path, header, picture=picture)


def fitted(path, bundle):
    """What a sandboxed decoder reads."""
    return read_fitted(path, path.name, bundle.size, mask_text=bundle.mask_text)


def whole(path, bundle):
    """Every pixel, fitted where the model is."""
    return DecodedImage(read_radiograph(path))


@pytest.fixture
def upright(pipeline, tmp_path):
    """A radiograph that is higher than wide, larger than what is drawn, with words in it."""
    image = next(iter(sorted(pipeline.paths.root.rglob("images/*.png"))))
    picture = Image.fromarray(np.asarray(read_radiograph(image).pixels)).resize((700, 900))
    ImageDraw.Draw(picture).text((60, 60), "PORTABLE", fill=1.0, font_size=40)
    path = tmp_path / "upright.dcm"
    pixels = (np.clip(picture, 0, 1) * 4095).astype("u2")
    radiograph("1.2.4", pixels=pixels).save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("mask_text", [False, True])
def test_an_image_fitted_where_it_is_decoded_gives_the_same_bytes(
    bundle_folder, upright, monkeypatch, mask_text
):
    monkeypatch.setattr("app.pacs.answering._is_faithful", lambda *_: True)  # so that it outlines
    bundle = dataclasses.replace(load_bundle(bundle_folder), mask_text=mask_text)
    service = InferenceService(Predictor(bundle, keep_maps=True), None, source="pacs")
    with HeaderReader() as headers:
        header = headers.read(upright, "image")
    made = []
    for read in (fitted, whole):
        answering = Answering({bundle_folder: service}, read, "rules")
        result = answering.result(bundle_folder, upright, header, picture=True)
        objects = build_objects(header, result, ("sr", "gsps", "sc", "seg"), datetime(2026, 3, 1))
        made.append((objects, result.answer.study.quality))
    assert len(objects) == 4
    assert made[0] == made[1]


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
