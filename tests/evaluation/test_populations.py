"""Populations: parts of the studies get the figures that they would have alone."""

from types import SimpleNamespace

import pandas as pd
import pytest

from cxr_mm.core.config import EvaluateParams, Params
from cxr_mm.core.files import read_json
from cxr_mm.core.task import Population
from cxr_mm.evaluation.evaluate import evaluate
from cxr_mm.evaluation.report.text import summary
from cxr_mm.evaluation.subsets import measure_table

PARAMS = EvaluateParams(bootstrap=100)
NAMES = {"pa": "taken | standing", "none": "at no site"}


@pytest.fixture(scope="module", params=[False, True], ids=["one division", "three divisions"])
def measured(request, task_of, table_of, project_of, tmp_path_factory):
    """A task with a population of the PA images and one of none, evaluated."""
    plain = task_of()
    table = table_of(plain, folds=3)
    paths = project_of(plain, table, tmp_path_factory.mktemp("measured"))
    populations = [Population(name=n, title=t, only={"view": ["PA"]}) for n, t in NAMES.items()]
    task = plain.model_copy(update={"populations": tuple(populations)})
    frame = pd.read_parquet(paths.manifest)
    inside = frame["view"].eq("PA")
    frame.assign(**{"population.pa": inside, "population.none": False}).to_parquet(paths.manifest)
    if request.param:
        pd.concat([table.assign(division=k) for k in (2, 3)]).to_parquet(paths.divisions)
    evaluate(task, Params(tasks=(task.name,), evaluate=PARAMS), paths)
    return SimpleNamespace(
        task=plain,
        rows=table[table["study_id"].isin(frame["study_id"][inside])],
        metrics=read_json(paths.reports / "metrics.json"),
        card=(paths.reports / "model_card.md").read_text(),
        divided=request.param,
    )


def test_its_figures_are_those_that_its_studies_have_alone(measured):
    found = measured.metrics["populations"]["pa"]
    alone = measure_table(measured.task, measured.rows, PARAMS)
    assert found["n_studies"] == alone["n_studies"] < measured.metrics["n_studies"]
    for subset in ("available", "note"):
        own, expected = (f["subsets"][subset]["findings"]["effusion"] for f in (found, alone))
        assert own["auc"] == expected["auc"]
    assert ("divisions" in found) == measured.divided


def test_report_and_card_set_them_side_by_side_and_say_which_are_empty(measured):
    assert r"| taken \| standing | `available` |" in measured.card
    assert r"| taken \| standing | `note` |" in measured.card
    assert "| at no site | | 0 |" in measured.card
    text = summary(measured.metrics)
    found = measured.metrics["populations"]["pa"]
    assert (
        f"taken | standing, {found['n_studies']} studies of {found['n_patients']} patients:" in text
    )
    assert "at no site, 0 studies:" in text
