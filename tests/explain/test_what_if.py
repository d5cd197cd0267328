"""What if: the curve goes through the study's own probability, and ends where patients end."""

import numpy as np
import pytest

from cxr_mm.core.errors import ClinicalError
from cxr_mm.core.study import Study
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.subject import Subject, modality_shares
from cxr_mm.explain.what_if import typical_range, what_if


def test_a_category_gives_its_own_probability(bundle, subject):
    target = Target(bundle.task.finding_names[0])
    curve = what_if(subject, target, "sex")
    own = modality_shares(subject)[target.finding].probability
    assert curve.probabilities[curve.values.index("female")] == pytest.approx(own, abs=1e-6)
    assert len(curve.values) == len(curve.probabilities)


def test_a_number_runs_through_what_the_model_has_seen(bundle, subject):
    curve = what_if(subject, Target(bundle.task.finding_names[0]), "temperature")
    seen = bundle.background["temperature"].dropna()
    assert (curve.values[0], curve.values[-1]) == (seen.min(), seen.max())
    assert np.ptp(curve.probabilities) > 0
    assert 0 <= curve.unknown <= 1


def test_it_may_be_asked_of_a_study_without_clinical_features(bundle):
    subject = Subject(bundle, Study("s", note="Fever and cough."))
    curve = what_if(subject, Target(bundle.task.finding_names[0]), "age")
    assert np.isfinite(curve.probabilities).all()


def test_an_unknown_feature_lists_those_that_exist(bundle, subject):
    with pytest.raises(ClinicalError, match="age"):
        what_if(subject, Target(bundle.task.finding_names[0]), "shoe_size")


def test_nine_of_ten_lie_in_the_typical_range(bundle):
    low, high = typical_range(bundle.background, "age")
    ages = bundle.background["age"].dropna()
    assert ((ages >= low) & (ages <= high)).mean() == pytest.approx(0.9, abs=0.05)
