"""Fixtures of the page's tests: one model, and a service without a log."""

import pytest

from app.service import InferenceService
from cxr_mm.inference.predictor import load_predictor


@pytest.fixture(scope="session")
def predictor(bundle_folder):
    """Takes noise for an image."""
    return load_predictor(bundle_folder, accept_any_image=True)


@pytest.fixture(scope="module")
def service(predictor):
    """Never to be changed: a test that does copies it."""
    return InferenceService(predictor, None)
