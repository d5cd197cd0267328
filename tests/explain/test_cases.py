"""Cases: the four kinds in turn, seeded, none twice."""

import pandas as pd
import pytest

from cxr_mm.explain.cases import KINDS, choose


class Findings:
    finding_names = ("a", "b")


@pytest.fixture
def heldout():
    rows = []
    for i in range(80):
        row = {"study_id": f"s{i}"}
        for k, name in enumerate(Findings.finding_names):
            label, positive = (i >> k) & 1, (i >> (k + 2)) & 1
            row |= {f"label.{name}": float(label), f"positive.{name}": bool(positive)}
            row |= {f"probability.{name}": 0.5, f"threshold.{name}": 0.4}
        rows.append(row)
    return pd.DataFrame(rows)


def test_kinds_and_findings_take_turns(heldout):
    cases = choose(Findings, heldout, 8, seed=0)
    assert [c.kind for c in cases] == [*KINDS, *KINDS]
    assert {c.finding for c in cases} == {"a", "b"}
    assert len({c.study_id for c in cases}) == 8


def test_each_case_is_what_it_says(heldout):
    table = heldout.set_index("study_id")
    for case in choose(Findings, heldout, 40, seed=1):
        positive = table.loc[case.study_id, f"positive.{case.finding}"]
        right = bool(table.loc[case.study_id, f"label.{case.finding}"]) == positive
        assert case.kind == f"{str(right).lower()} {'positive' if positive else 'negative'}"


def test_same_seed_same_cases(heldout):
    assert choose(Findings, heldout, 8, seed=5) == choose(Findings, heldout, 8, seed=5)
    assert choose(Findings, heldout, 8, seed=5) != choose(Findings, heldout, 8, seed=6)


def test_missing_labels_are_not_shown_and_scarce_kinds_run_out(heldout):
    heldout["label.b"] = float("nan")
    heldout.loc[1:, "label.a"] = float("nan")
    cases = choose(Findings, heldout, 8, seed=0)
    assert [(c.study_id, c.finding) for c in cases] == [("s0", "a")]
