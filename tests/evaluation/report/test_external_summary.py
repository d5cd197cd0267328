"""Summary of an evaluation elsewhere: what is wrong is said in words, what is not known as well."""

import pytest

from cxr_mm.evaluation.report.text import external_summary


def estimate(value, low, high):
    return {"value": value, "ci95": [low, high]}


NONE = {"value": None, "ci95": None, "reason": "no study has the finding"}
POINT = {
    "sensitivity": {**estimate(0.8, 0.7, 0.9), "chosen_with": 0.95},
    "specificity": {**estimate(0.1, 0.05, 0.15), "chosen_with": 0.9},
}
SCORES = ("ece", "brier", "sensitivity", "specificity")
UPDATE = {"p_any": 0.0, "p_slope": 0.0}


@pytest.fixture
def metrics():
    look = {
        "n": 100,
        "positives": 40,
        "calibration_in_the_large": estimate(0.4, 0.35, 0.45),
        "calibration_intercept": estimate(-2.0, -2.2, -1.8),
        "calibration_slope": estimate(0.3, 0.2, 0.4),
        "auc": estimate(0.7, 0.6, 0.8),
        "operating_points": {
            "youden": {"in_use": False, **POINT},
            "high_sensitivity": {"in_use": True, **POINT},
        },
    }
    figures = {m: look[m] for m in ("auc", "calibration_slope")}
    figures |= {m: estimate(0.5, 0.4, 0.6) for m in (*SCORES, "accuracy")}
    return {
        "transportability": {
            "findings": {"effusion": look},
            "studies": {
                "here": {
                    "studies": 100,
                    "patients": 90,
                    "missing": {"image": 0.0, "note": 0.25},
                    "traits": {
                        "age": {"known": 100, "mean": 45.0, "sd": 16.04},
                        "sex": {"known": 99, "shares": {"F": 0.51, "M": 0.49}},
                        "view": {"known": 0, "shares": {}},
                    },
                    "positive": {"effusion": 0.4},
                },
                "trained_on": {"studies": 5, "patients": 4, "traits": {}},
            },
            "caveats": ["Children   of one\nhospital."],
            "warnings": ["Effusion: the model ranks studies no better than chance here"],
        },
        "task": "chest",
        "title": "Chest",
        "model": "chest (late fusion)",
        "manifest": "nih.csv",
        "n_studies": 100,
        "n_patients": 90,
        "bad_rows": 2,
        "trained_studies": {"text": "3 of 103 studies were trained on."},
        "tally": ["102 studies read, 100 answered, 2 not"],
        "subsets": {"available": {"n": 100, "findings": {"effusion": {"n": 100, **figures}}}},
        "recalibration": {"gain": None, "left": {}},
    }


def test_what_is_wrong_is_said_in_words(metrics):
    text = external_summary(metrics)
    assert text.startswith(
        "chest (late fusion), on nih.csv: 100 studies of 90 patients, 2 bad rows"
    )
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert {
        "effusion: 40 of 100",
        "calibration in the large +0.400 [+0.350, +0.450] ideal 0 probabilities are too high",
        "calibration intercept -2.00 [-2.20, -1.80] ideal 0 probabilities are too high",
        "calibration slope 0.30 [0.20, 0.40] ideal 1 predictions are too extreme",
        "AUC 0.700 [0.600, 0.800]",
        "high_sensitivity, in use 0.800 [0.700, 0.900] (0.950) 0.100 [0.050, 0.150] (0.900)",
        "warning: Effusion: the model ranks studies no better than chance here",
        "studies (patients) 5 (4) 100 (90)",
        "with effusion not said 40%",
        "note missing not said 25%",
        "age not said 45 (SD 16)",
        "sex not said F 51%, M 49%",
        "view not said not known",
        "- Children of one hospital.",
    } <= lines
    assert "too few patients of the rarer class, 20 are needed" in text


@pytest.mark.parametrize(
    ("metric", "interval", "words"),
    [
        ("calibration_in_the_large", (-0.3, -0.2), "probabilities are too low"),
        ("calibration_intercept", (0.3, 0.4), "probabilities are too low"),
        ("calibration_slope", (1.3, 1.4), "predictions are too timid"),
        ("calibration_slope", (0.9, 1.1), ""),
        ("calibration_in_the_large", (-0.1, 0.1), ""),
    ],
)
def test_only_an_interval_beside_the_ideal_is_called_wrong(metrics, metric, interval, words):
    found = estimate(sum(interval) / 2, *interval)
    metrics["transportability"]["findings"]["effusion"][metric] = found
    title = metric.replace("_", " ")
    line = next(x for x in external_summary(metrics).splitlines() if x.startswith(f"  {title}"))
    assert line.rstrip().endswith(words or ("ideal 1" if "slope" in metric else "ideal 0"))


def test_what_is_not_defined_is_a_dash_with_its_reason(metrics):
    metrics["transportability"]["findings"]["effusion"]["calibration_slope"] = NONE
    lines = [" ".join(line.split()) for line in external_summary(metrics).splitlines()]
    assert "calibration slope - ideal 1 no study has the finding" in lines


def test_what_recalibration_changes_and_brings(metrics):
    change = {
        "before": estimate(0.3, 0.2, 0.4),
        "after": estimate(0.1, 0.05, 0.15),
        "difference": estimate(-0.2, -0.3, -0.1),
    }
    names = ("calibration_in_the_large", "calibration_intercept", "calibration_slope", "auc")
    metrics["recalibration"] = {
        "folds": 5,
        "updates": {
            "image": {
                "effusion": {
                    **UPDATE,
                    "method": "intercept_and_slope",
                    "slope": 0.5,
                    "intercept": -0.3,
                }
            },
            "note": {
                "effusion": {**UPDATE, "method": "intercept", "slope": 1.0, "intercept": 0.25}
            },
            "tabular": {"effusion": {**UPDATE, "method": "none", "slope": 1.0, "intercept": 0.0}},
        },
        "left": {"image+note": {"effusion": "3 patients of the rarer class, 20 needed"}},
        "gain": {"available": {"effusion": dict.fromkeys((*names, *SCORES), change)}},
    }
    lines = [" ".join(line.split()) for line in external_summary(metrics).splitlines()]
    start = lines.index("recalibration would change:")
    assert lines[start + 1 : start + 7] == [
        "image: effusion: new intercept and slope: 0.500 × logit - 0.30",
        "note: effusion: new intercept: logit + 0.25",
        "tabular: effusion: left as it is",
        "image+note: effusion: left as it is: 3 patients of the rarer class, 20 needed",
        "recalibration gain, cross-validated by patient (5 folds):",
        "effusion before after difference",
    ]
    assert "ECE 0.300 [0.200, 0.400] 0.100 [0.050, 0.150] -0.200 [-0.300, -0.100]" in lines
    assert lines[-1] == "write that bundle with --recalibrate FOLDER"
    metrics["recalibration"] |= {"bundle": "there/new", "digest": "ab" * 32}
    assert external_summary(metrics).endswith("new bundle: there/new (digest abababababab)")
