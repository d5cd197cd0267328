"""Fixtures of the explanations: the small pipeline's bundle, and studies to explain."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cxr_mm.core.study import Study
from cxr_mm.explain.subject import Subject
from cxr_mm.models.bundle import Bundle, load_bundle

NOTE = "Fever and cough for 3 days. No pleural effusion, dull to percussion at the left base."
PASSED = {
    "modality": "image",
    "n": 30,
    "patients": 10,
    "gain": {"value": 1.5, "low": 1.2, "high": 1.9},
    "better_than_chance": True,
    "depends_on_weights": True,
}
"""Figures of a method that is faithful."""
CLINICAL = {"age": 71.0, "temperature": 38.9, "sex": "female"}


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


@pytest.fixture(scope="session")
def a_study() -> Callable[[int], Study]:
    """A study of noise with every modality, by seed."""

    def make(seed: int) -> Study:
        image = np.random.default_rng(seed).random((130, 90), dtype=np.float32)
        return Study(f"s{seed}", f"p{seed}", image=image, clinical=dict(CLINICAL), note=NOTE)

    return make


@pytest.fixture
def subject(bundle: Bundle, a_study: Callable[[int], Study]) -> Subject:
    return Subject(bundle, a_study(0))
