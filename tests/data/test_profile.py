"""Profile: figures counted by hand, and of the rows asked for alone."""

import numpy as np
import pandas as pd

from cxr_mm.core.task import Task
from cxr_mm.data.manifest import REQUIRED, Manifest
from cxr_mm.data.profile import manifest_profile, profile

TASK = Task(
    name="made_up",
    title="Made-up question",
    problem="binary",
    findings=[{"name": "effusion", "title": "Effusion"}],
    source={"kind": "manifest_csv"},
    split={"protocol": "patient"},
    clinical=[
        {"name": "age", "title": "Age", "type": "number", "minimum": 0, "maximum": 120},
        {"name": "sex", "title": "Sex", "type": "category", "categories": ["F", "M"]},
    ],
    licence="none",
    citation="none",
)


def manifest():
    frame = pd.DataFrame(None, index=range(5), columns=list(REQUIRED), dtype=object)
    frame["study_id"] = list("abcde")
    frame["patient_id"] = frame["group"] = ["p", "p", "q", "r", "r"]
    frame["pixel_row"] = [0, -1, 1, -1, 2]
    frame["view"] = ["PA", "AP", "PA", None, "PA"]
    frame["clinical.age"] = [40.0, np.nan, 60.0, np.nan, 1.0]
    frame["clinical.sex"] = ["F", None, "M", None, "M"]
    frame["finding.effusion"] = [1.0, 0.0, 0.0, np.nan, 1.0]
    return Manifest.checked(TASK, frame)


def test_rows_of_a_manifest_are_described_and_no_others():
    assert manifest_profile(manifest(), np.array([0, 1, 2, 3])) == {
        "studies": 4,
        "patients": 3,
        "missing": {"image": 0.5, "tabular": 0.5},
        "traits": {
            "age": {"known": 2, "mean": 50.0, "sd": 10.0},
            "sex": {"known": 2, "shares": {"F": 0.5, "M": 0.5}},
            "view": {"known": 3, "shares": {"PA": 0.6667, "AP": 0.3333}},
        },
        "positive": {"effusion": 0.3333},
    }


def test_what_is_not_known_of_any_study_is_said_so():
    nothing = pd.DataFrame({"age": [np.nan, np.nan], "sex": [None, None]})
    labels = pd.DataFrame({"effusion": [np.nan, np.nan]})
    found = profile(TASK, np.ones((2, 3), bool), nothing, labels, patients=2)
    assert found["traits"] == {"age": {"known": 0}, "sex": {"known": 0, "shares": {}}}
    assert found["positive"] == {"effusion": None}
