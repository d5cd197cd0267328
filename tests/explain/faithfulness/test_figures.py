"""Figures of areas: masks that the user gives of lungs are found by the image's name."""

import numpy as np
import pytest
from PIL import Image

from cxr_mm.data.manifest import load_manifest
from cxr_mm.explain.budget import TimeBudget
from cxr_mm.explain.cases import Studies
from cxr_mm.explain.faithfulness.localisation import lung_figures
from cxr_mm.explain.methods import METHODS


def test_a_mask_of_half_the_image_holds_a_share_between_0_and_1(bundle, pipeline, tmp_path):
    studies = Studies(load_manifest(pipeline.paths, pipeline.task), pipeline.paths.pixels)
    shown = [str(s) for s in studies.frame["study_id"] if studies.has_image(s)][:3]
    for study_id in shown[:2]:
        file = studies.image_file(study_id)
        with Image.open(file) as image:
            mask = np.zeros(image.size[::-1], dtype=np.uint8)
        mask[: len(mask) // 2] = 255
        Image.fromarray(mask).save(tmp_path / f"{file.stem}.png")
    found = lung_figures(
        bundle, studies, shown, [METHODS["layer_cam"]], tmp_path, 0, TimeBudget(None)
    )
    for finding in bundle.task.finding_names:
        figures = found[finding]["layer_cam"]
        assert figures["n"] == 2  # the third has no mask
        assert 0 < figures["energy"]["value"] < 1
        assert figures["chance_energy"]["value"] == pytest.approx(0.5, abs=0.05)
