"""Principal components that new studies spread over as the reference does."""

import numpy as np
import pytest

from cxr_mm.core.errors import StageError
from monitoring.table import fit_projection


def test_scores_of_new_studies_spread_as_those_of_the_reference():
    rng = np.random.default_rng(0)
    reference, new = (rng.normal(size=(n, 200)).astype(np.float32) for n in (240, 2000))
    projection, fit = fit_projection(reference, np.arange(240), 8, seed=0)
    assert fit.sum() == 80
    held = projection.apply(reference[~fit]).std(axis=0)
    assert np.allclose(held, 1, atol=1e-4)
    assert projection.apply(new).std(axis=0).mean() == pytest.approx(1, abs=0.08)
    assert projection.apply(reference[fit]).std(axis=0).mean() > 1.2


def test_patients_are_fitted_whole_and_few_are_refused():
    x = np.random.default_rng(1).normal(size=(90, 5)).astype(np.float32)
    patients = np.arange(90) // 3
    _, fit = fit_projection(x, patients, 16, seed=0)
    assert all(len(set(fit[patients == p])) == 1 for p in range(30))
    with pytest.raises(StageError, match="at least 20"):
        fit_projection(x[:40], patients[:40], 4, seed=0)
