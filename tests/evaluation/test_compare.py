import numpy as np
import pytest

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import InputError
from cxr_mm.core.types import AVAILABLE
from cxr_mm.evaluation.compare import compare, compare_subsets
from cxr_mm.evaluation.subsets import fusion_gain, subset_rows

PARAMS = EvaluateParams(bootstrap=200)
F = "effusion"


def two(task_of, table_of):
    table = table_of(task_of(), n=300)
    return subset_rows(table, "image+tabular+note"), subset_rows(table, "image")


def test_better_model_shows_in_interval_and_p(task_of, table_of):
    fused, image = two(task_of, table_of)
    found = compare(fused, image, F, PARAMS)
    low, high = found.difference.interval
    assert 0 < low < found.difference.value < high
    assert found.test.p < 0.05
    assert found.test.difference == pytest.approx(found.difference.value)
    assert found.n == image[f"label.{F}"].notna().sum()
    back = compare(image, fused, F, PARAMS)
    assert back.difference.value == pytest.approx(-found.difference.value)
    assert back.test.p == pytest.approx(found.test.p)


def test_only_shared_studies_in_any_order(task_of, table_of):
    fused, image = two(task_of, table_of)
    some = fused.sample(200, random_state=1)
    found = compare(some, image, F, PARAMS)
    assert found.n == some[f"label.{F}"].notna().sum()
    same = image[image["study_id"].isin(some["study_id"])].sample(frac=1, random_state=2)
    assert compare(some, same, F, PARAMS).to_json() == found.to_json()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.drop(columns="group"), "no column group"),
        (lambda t: t.drop(columns=f"probability.{F}"), "no column probability.effusion"),
        (lambda t: t.assign(**{f"label.{F}": 1 - t[f"label.{F}"]}), "different labels"),
        (lambda t: t.iloc[[0, 0]], "occurs twice"),
    ],
)
def test_tables_that_cannot_be_compared(spoil, words, task_of, table_of):
    fused, image = two(task_of, table_of)
    with pytest.raises(InputError, match=words):
        compare(fused, spoil(image), F, PARAMS)


def test_one_class_gives_a_reason_instead_of_a_figure(task_of, table_of):
    fused, image = (t.assign(**{f"label.{F}": 1.0}) for t in two(task_of, table_of))
    message = compare(fused, image, F, PARAMS).to_json()
    assert message["p"] is None
    assert message["auc"]["reason"] == "one class only"


def test_each_subset_against_its_best_single_and_all_there_is(task_of, table_of):
    task = task_of("multilabel")
    table = table_of(task)
    found = compare_subsets(task, table, PARAMS)["comparisons"]
    pairs = {(c["finding"], c["subset"], c["against"]) for c in found}
    assert len(pairs) == len(found) == 2 * (4 + 6)
    assert not any(c["subset"] == "image+tabular+note" and c["against"] == AVAILABLE for c in found)
    gain = fusion_gain(task, [table], PARAMS)["findings"]
    for c in found:
        assert c["against"] == AVAILABLE or c["against"] in c["subset"].split("+")
        assert c["p_holm"] >= c["p"]
        if c["subset"] == "image+tabular+note":
            assert c["against"] == gain[c["finding"]]["best_single"]
            assert c["difference"]["value"] == gain[c["finding"]]["difference"]["value"]


def test_a_single_modality_has_nothing_to_compare(task_of, table_of):
    task = task_of(modalities=1)
    assert compare_subsets(task, table_of(task), PARAMS)["comparisons"] == []


def test_predictions_that_are_the_same_say_so(task_of, table_of):
    _, image = two(task_of, table_of)
    message = compare(image, image.copy(), F, PARAMS).to_json()
    assert (message["p"], message["note"]) == (1.0, "both order the studies alike")
    assert np.allclose(message["difference"]["ci95"], 0)
