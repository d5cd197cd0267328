"""Performance estimated from probabilities alone, and whether that held."""

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.types import FEWEST_PATIENTS
from monitoring.concept_drift import estimate, score_concept
from monitoring.verdict import describe_metric


def table(n, seed, truth=lambda p: p, labelled=True):
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.7, 0.9, n)
    label = (rng.random(n) < truth(probability)).astype(float)
    return pd.DataFrame(
        {
            "patient": [str(i) for i in range(n)],
            "label.x": label if labelled else np.nan,
            "probability.x": probability,
            "positive.x": np.where(probability > 0.4, "yes", "no"),
        }
    )


REFERENCE = table(2000, 0)


def found(current):
    return {e.metric: e for e in estimate(current, REFERENCE, ["x"])}


def test_a_calibrated_model_foretells_what_its_reference_shows():
    for metric, one in found(table(1000, 1, labelled=False)).items():
        assert one.value == pytest.approx(one.reference, abs=0.04), metric
        assert one.low < one.value < one.high
        assert (one.labelled, one.within) == (0, None)


def test_easier_studies_are_estimated_to_go_better():
    easy = table(1000, 2, labelled=False)
    sure = easy.assign(**{"probability.x": np.where(easy["probability.x"] > 0.5, 0.97, 0.03)})
    assert found(sure)["auc"].value > found(easy)["auc"].value + 0.05


def test_where_labels_came_the_estimate_held_or_did_not():
    held = found(table(400, 3))
    assert held["auc"].within
    assert held["auc"].labelled == 400
    changed = found(table(400, 3, truth=lambda p: 1 - p))
    assert changed["auc"].within is False
    assert changed["auc"].observed < 0.5 < changed["auc"].estimated


@pytest.mark.parametrize("patients", [FEWEST_PATIENTS - 1, FEWEST_PATIENTS])
def test_of_too_few_patients_there_is_no_interval_however_many_studies(patients):
    window = table(100, 5).assign(patient=[str(i % patients) for i in range(100)])
    enough = patients >= FEWEST_PATIENTS
    one = found(window)["auc"]
    assert (one.low is not None, one.within is not None) == (enough, enough)
    assert one.compared
    (first, *_) = score_concept(window, REFERENCE, ["x"]).metrics
    assert (first.low is not None, first.high is not None) == (enough, enough)
    assert ("too few patients" in describe_metric(first)) != enough
