import numpy as np
import pytest
from sklearn import metrics as sk

from cxr_mm.core.config import EvaluateParams
from cxr_mm.evaluation.metrics import METRICS
from cxr_mm.evaluation.subsets import fusion_gain, measure_subset, measure_table, subset_order

QUICK = EvaluateParams(bootstrap=100)


def rows_of(table, subset):
    return table[table["subset"] == subset]


def test_every_subset_has_every_metric_with_an_interval_around_it(task_of, table_of):
    task = task_of()
    result = measure_table(task, table_of(task), QUICK)
    assert list(result["subsets"]) == subset_order(task)
    for subset in result["subsets"].values():
        figures = subset["findings"]["effusion"]
        for metric in METRICS:
            low, high = figures[metric]["ci95"]
            assert low <= figures[metric]["value"] <= high
            assert high > low
        cells = figures["confusion"]
        assert sum(cells.values()) == figures["n"] < subset["n"]
        assert cells["tp"] + cells["fn"] == figures["positives"]


def test_binary_agrees_with_scikit_learn_on_labelled_rows(task_of, table_of):
    task = task_of()
    table = table_of(task)
    rows = rows_of(table, "note").dropna(subset="label.effusion")
    figures = measure_table(task, table, QUICK)["subsets"]["note"]["findings"]["effusion"]
    expected = sk.roc_auc_score(rows["label.effusion"], rows["probability.effusion"])
    assert figures["auc"]["value"] == pytest.approx(expected, abs=1e-6)
    assert figures["n"] == len(rows)


def test_multiclass_has_accuracy_over_classes_macro_and_confusion(task_of, table_of):
    task = task_of("multiclass")
    table = table_of(task)
    message = measure_subset(task, rows_of(table, "available"), QUICK)
    rows, names = rows_of(table, "available"), list(task.finding_names)
    truth = rows[[f"label.{n}" for n in names]].to_numpy().argmax(axis=1)
    chances = rows[[f"probability.{n}" for n in names]].to_numpy()
    assert message["macro"]["accuracy"]["value"] == pytest.approx(
        sk.accuracy_score(truth, chances.argmax(axis=1)), abs=1e-6
    )
    assert message["macro"]["auc"]["value"] == pytest.approx(
        sk.roc_auc_score(truth, chances, multi_class="ovr", average="macro"), abs=1e-6
    )
    assert [list(row.values()) for row in message["confusion"].values()] == sk.confusion_matrix(
        truth, chances.argmax(axis=1)
    ).tolist()
    low, high = message["macro"]["accuracy"]["ci95"]
    assert low < message["macro"]["accuracy"]["value"] < high


def test_multilabel_macro_is_the_mean_over_findings(task_of, table_of):
    task = task_of("multilabel")
    message = measure_subset(task, rows_of(table_of(task), "image"), QUICK)
    values = [f["brier"]["value"] for f in message["findings"].values()]
    assert message["macro"]["brier"]["value"] == pytest.approx(np.mean(values), abs=2e-6)
    assert "confusion" not in message


def test_a_finding_of_one_class_is_null_and_leaves_the_macro_to_the_others(task_of, table_of):
    task = task_of("multilabel")
    table = table_of(task)
    table["label.effusion"] = 0.0
    message = measure_subset(task, rows_of(table, "available"), QUICK)
    assert message["findings"]["effusion"]["auc"] == {
        "value": None,
        "ci95": None,
        "reason": "no study has the finding",
    }
    assert message["findings"]["effusion"]["specificity"]["value"] is not None
    assert message["macro"]["over"] == ["consolidation"]
    assert message["macro"]["auc"]["value"] == message["findings"]["consolidation"]["auc"]["value"]
    table["label.effusion"] = np.nan
    message = measure_subset(task, rows_of(table, "available"), QUICK)
    assert message["findings"]["effusion"]["brier"]["reason"] == "no study has a label"


def test_folds_are_pooled_and_averaged(task_of, table_of):
    task = task_of(protocol="folds")
    table = table_of(task, folds=3)
    message = measure_table(task, table, QUICK)["subsets"]["available"]["findings"]["effusion"]
    rows = rows_of(table, "available").dropna(subset="label.effusion")
    by_fold = [
        sk.roc_auc_score(fold["label.effusion"], fold["probability.effusion"])
        for _, fold in rows.groupby("fold")
    ]
    assert message["auc_mean_of_folds"]["value"] == pytest.approx(np.mean(by_fold), abs=1e-6)
    pooled = sk.roc_auc_score(rows["label.effusion"], rows["probability.effusion"])
    assert message["auc"]["value"] == pytest.approx(pooled, abs=1e-6)
    single = measure_table(task, table_of(task), QUICK)["subsets"]["available"]
    assert "auc_mean_of_folds" not in single["findings"]["effusion"]


def test_fusion_gain_compares_the_same_studies(task_of, table_of):
    task = task_of()
    table = table_of(task, n=300)
    # Notes that only the studies without an image have must not count for the note.
    alone = table["study_id"].isin([f"s{i:04d}" for i in range(100)])
    table = table[~(alone & table["subset"].str.contains("image"))]
    gain = fusion_gain(task, [table], QUICK)
    assert gain["studies"] == 200
    message = gain["findings"]["effusion"]
    rows = rows_of(table, message["best_single"])
    rows = rows[rows["study_id"] >= "s0100"].dropna(subset="label.effusion")
    expected = sk.roc_auc_score(rows["label.effusion"], rows["probability.effusion"])
    assert message["single_auc"]["value"] == pytest.approx(expected, abs=1e-6)
    assert message["difference"]["ci95"][0] > 0
    assert message["difference"] == message["differences"][message["best_single"]]
    assert (
        min(d["value"] for d in message["differences"].values()) == message["difference"]["value"]
    )


def test_fusion_gain_of_a_copy_of_the_single_is_exactly_zero(task_of, table_of):
    task = task_of(modalities=2)
    table = table_of(task)
    image = rows_of(table, "image").set_index("study_id")["probability.effusion"]
    fused = table["subset"] == "image+tabular"
    table.loc[fused, "probability.effusion"] = table.loc[fused, "study_id"].map(image)
    message = fusion_gain(task, [table], QUICK)["findings"]["effusion"]
    assert message["differences"]["image"] == {"value": 0.0, "ci95": [0.0, 0.0]}


def test_fusion_gain_says_why_there_is_none(task_of, table_of):
    task = task_of()
    table = table_of(task)
    assert fusion_gain(task, [table[table["subset"] != "image+tabular+note"]], QUICK)["reason"]
    image_only = task_of(modalities=1)
    assert "fusion_gain" not in measure_table(image_only, table_of(image_only), QUICK)


def test_result_does_not_depend_on_the_order_of_rows(task_of, table_of):
    task = task_of("multilabel")
    table = table_of(task)
    shuffled = table.sample(frac=1, random_state=0)
    assert measure_table(task, shuffled, QUICK) == measure_table(task, table, QUICK)
