"""Localisation: known maps give known figures."""

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.errors import StageError
from cxr_mm.explain.faithfulness.localisation import average_location, read_boxes, summary
from cxr_mm.explain.faithfulness.metrics import gini, localise, verdict
from tests.explain.conftest import PASSED

OF_QUANTUS = (
    (0.2611578702926636, 1, 0.32, 0.6110487127505229),
    (0.23912373185157776, 0, 0.24, 0.6050070693693514),
    (0.2481376826763153, 1, 0.2, 0.6464407411797246),
    (0.1380676031112671, 0, 0.16, 0.6094279358713528),
)


@pytest.fixture
def mask():
    mask = np.zeros((20, 20), dtype=bool)
    mask[4:8, 10:15] = True
    return mask


def test_a_perfect_map(mask):
    figures = localise(mask.astype(np.float32), mask)
    assert (figures.energy, figures.pointing, figures.iou) == (1.0, 1.0, 1.0)


def test_a_map_of_the_opposite(mask):
    figures = localise((~mask).astype(np.float32), mask)
    assert (figures.energy, figures.pointing, figures.iou) == (0.0, 0.0, 0.0)


def test_an_empty_map_earns_nothing(mask):
    figures = localise(np.zeros((20, 20), dtype=np.float32), mask)
    assert (figures.energy, figures.pointing, figures.iou) == (0.0, 0.0, 0.0)


def test_chance_is_what_random_maps_give(mask):
    rng = np.random.default_rng(0)
    drawn = [localise(rng.random((20, 20), dtype=np.float32), mask) for _ in range(800)]
    assert np.mean([d.energy for d in drawn]) == pytest.approx(drawn[0].chance_energy, rel=0.03)
    assert np.mean([d.pointing for d in drawn]) == pytest.approx(0.05, abs=0.025)
    assert np.mean([d.iou for d in drawn]) == pytest.approx(drawn[0].chance_iou, rel=0.2)


def test_unlike_shapes_and_empty_masks_are_refused(mask):
    with pytest.raises(ValueError, match="shape"):
        localise(np.ones((5, 5), dtype=np.float32), mask)
    with pytest.raises(ValueError, match="empty"):
        localise(np.ones((20, 20), dtype=np.float32), np.zeros_like(mask))


def test_average_precision_is_that_of_the_ranking(mask):
    ranked = np.zeros((20, 20), dtype=np.float32)
    ranked[4, 10:15] = 2  # a quarter of the area first, then as much beside it
    ranked[0, 10:15] = 1
    figures = localise(ranked, mask)
    rest = np.mean([5 / 5] * 5 + [20 / 400] * 15)
    assert figures.precision == pytest.approx(rest)
    assert localise(np.zeros((20, 20), dtype=np.float32), mask).precision == mask.mean()


def test_quantus_finds_the_same_of_the_same_maps():
    """Values of Quantus 0.6.0 (Hedström et al. 2023): relevance mass, pointing game, relevance rank
    and sparseness; it needs a second OpenCV, which cannot be installed beside the project's."""
    rng = np.random.default_rng(0)
    for number, (mass, pointing, rank, sparse) in enumerate(OF_QUANTUS):
        values = rng.gamma(0.5, 1, (12, 12)).astype(np.float32)
        area = np.zeros((12, 12), dtype=bool)
        area[2:7, 3 + number : 8 + number] = True
        figures = localise(values, area)
        assert figures.energy == pytest.approx(mass, abs=1e-6)
        assert figures.pointing == pointing
        assert figures.iou == pytest.approx(rank / (2 - rank), abs=1e-6)
        assert gini(values.ravel().astype(np.float64)) == pytest.approx(sparse, abs=1e-6)


def test_the_average_location_is_of_other_patients():
    areas = {name: np.zeros((4, 4), dtype=bool) for name in "abc"}
    for place, name in enumerate("abc"):
        areas[name][place] = True
    patients = {"a": "p", "b": "p", "c": "q"}
    found = average_location(areas, patients, "c")
    assert found[:, 0].tolist() == [0.5, 0.5, 0, 0]
    assert average_location({"a": areas["a"]}, patients, "a").sum() == 0


@pytest.mark.parametrize(("cell", "found"), [("[[1, 2, 3, 4]]", [1, 2, 3, 4]), ("[]", None)])
def test_boxes_are_read_by_image(tmp_path, cell, found):
    file = tmp_path / "boxes.csv"
    file.write_text(f'image,nih_boxes\na.png,"{cell}"\nb.png,\nc.png,"[[""Mass"", 5, 6, 7, 8]]"\n')
    boxes = read_boxes(file, "nih_boxes")
    assert boxes.get("a.png") == (found and [found])
    assert boxes["c.png"] == [[5, 6, 7, 8]]
    assert "b.png" not in boxes


def test_a_cell_that_is_no_list_of_boxes_is_named(tmp_path):
    file = tmp_path / "boxes.csv"
    file.write_text("image,rsna_boxes\na.png,left base\n")
    with pytest.raises(StageError, match="boxes of a") as raised:
        read_boxes(file, "rsna_boxes")
    assert "rsna_boxes" in raised.value.field
    assert "[x, y, width, height]" in raised.value.remedy


@pytest.mark.parametrize(("precision", "beats"), [(0.6, True), (0.5, False), (0.4, False)])
def test_a_method_beats_the_average_location_by_its_paired_interval(precision, beats):
    rng = np.random.default_rng(0)
    average = rng.uniform(0.4, 0.6, 40)
    table = pd.DataFrame(
        {
            "method": "occlusion",
            "patient_id": [f"p{k}" for k in range(40)],
            "precision": average + precision - 0.5 + rng.normal(0, 0.05, 40),
            "average.precision": average,
        }
    )
    found = summary(table, 7)
    assert found["beats_average"] is beats
    assert found["against_average"]["value"] == pytest.approx(precision - 0.5, abs=0.02)
    sentence = verdict({**PASSED, "areas": {"opacity": found}})
    average_words = "better than the average location of opacity in other patients"
    assert average_words in sentence
    assert ("do not read it as a place" in sentence) is not beats
    assert "40 studies" in sentence


def test_without_areas_enough_it_is_not_measured_where_a_method_points():
    unmeasured = "Where it points has not been measured"
    assert unmeasured in verdict(PASSED)
    few = {"n": 29, "patients": 29, "against_average": {"low": None}}
    assert unmeasured in verdict({**PASSED, "areas": {"opacity": few}})
    assert unmeasured not in verdict({**PASSED, "modality": "note"})
