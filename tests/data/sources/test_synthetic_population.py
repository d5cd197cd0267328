import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_mm.core.task import load_task
from cxr_mm.data.notes import mask_note
from cxr_mm.data.synthetic.population import (
    CLINICAL,
    FINDINGS,
    MISSING,
    NUMBERS,
    SynthesisSpec,
    draw_cases,
)
from cxr_mm.data.synthetic.writer import manifest_row

N, FEW = 1200, 250


def population(studies=N, **dials):
    spec = SynthesisSpec(studies=studies, seed=3, **dials)
    return pd.DataFrame([manifest_row(spec, case) for case in draw_cases(spec)])


@pytest.fixture(scope="module")
def plain():
    return population()


@pytest.fixture(scope="module")
def cases():
    return draw_cases(SynthesisSpec(studies=N, seed=3))


def share(column):
    return column.astype(float).mean()


def test_a_longer_population_begins_with_the_shorter_one(cases):
    assert draw_cases(SynthesisSpec(studies=50, seed=3)) == cases[:50]


def test_seeds_differ(cases):
    assert draw_cases(SynthesisSpec(studies=50, seed=4)) != cases[:50]


def test_patients_have_one_to_three_studies(plain):
    counts = plain.groupby("patient_id").size()
    assert set(counts) == {1, 2, 3}
    assert (counts == 1).mean() == pytest.approx(0.60, abs=0.06)


def test_a_patient_keeps_sex_and_site(plain):
    stored = plain.groupby("patient_id")[["sex", "site"]].nunique()
    assert stored.max().max() == 1


def test_findings_have_their_prevalence(plain):
    for finding in FINDINGS:
        assert share(plain[finding]) == pytest.approx(0.30, abs=0.05)


def test_findings_recur_within_a_patient(plain):
    pairs = plain.dropna(subset=["effusion"]).groupby("patient_id")["effusion"]
    first, last = pairs.first().astype(int), pairs.last().astype(int)
    several = pairs.size() > 1
    assert np.corrcoef(first[several], last[several])[0, 1] > 0.08


@pytest.mark.parametrize(
    ("column", "expected"),
    [("image_path", 0.03), ("note", 0.15), ("consolidation", 0.02), ("effusion", 0.02)],
)
def test_missing_rates(plain, column, expected):
    assert plain[column].isna().mean() == pytest.approx(expected, abs=0.025)


def test_each_clinical_value_has_its_own_missing_rate(plain):
    present = plain[plain[list(CLINICAL)].notna().any(axis=1)]
    assert 1 - len(present) / len(plain) == pytest.approx(0.05, abs=0.02)
    for name, chance in MISSING.items():
        assert present[name].isna().mean() == pytest.approx(chance, abs=0.05), name
    rates = present.groupby("site")["crp"].apply(lambda c: c.isna().mean())
    assert rates["B"] > rates["A"] > rates["C"]


def test_never_all_three_absent():
    raw = population(FEW, image_absent=0.9, tabular_absent=0.9, note_absent=0.9)
    absent = raw[["image_path", "note"]].isna().all(axis=1)
    absent &= raw[list(CLINICAL)].isna().all(axis=1)
    assert not absent.any()
    assert raw["note"].isna().mean() > 0.85


def test_notes_do_not_name_a_finding_once_masked(plain):
    task = load_task("synthetic")
    notes = plain["note"].dropna()
    masked = [mask_note(note, task.note) for note in notes]
    words = "consolidation|pneumonia|effusion|infiltrate"
    assert notes.str.contains(words, case=False).any()
    assert not pd.Series(masked).str.contains(words, case=False).any()


def test_notes_have_negations_abbreviations_and_distractors(plain):
    text = " | ".join(plain["note"].dropna())
    for words in ("no fever", "denies", "SOB", "c/o", "hx of", "HTN", "gout"):
        assert words in text


def _logit(model, features, labels, train):
    model.fit(features[train], labels[train])
    return model.decision_function(features[~train])


@pytest.mark.parametrize("finding", FINDINGS)
def test_each_modality_informs_and_together_they_inform_more(plain, cases, finding):
    labels = np.array([getattr(case.illness, finding) for case in cases])
    first = plain["patient_id"].str[-5:].astype(int)
    train = (first < first.max() / 2).to_numpy()
    table = pd.get_dummies(plain[list(CLINICAL)], columns=["sex", "smoker", "prior_heart_failure"])
    linear = make_pipeline(
        SimpleImputer(add_indicator=True), StandardScaler(), LogisticRegression(C=0.1)
    )
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    notes = words.fit_transform(plain["note"].fillna("").astype(str))
    plainness = {"consolidation": "extent", "effusion": "volume"}[finding]
    seen = np.array([getattr(case.illness, plainness) for case in cases]) * labels
    seen = seen + np.random.default_rng(0).normal(0, 0.35, N)
    scores = {
        "tabular": _logit(linear, table.to_numpy(float), labels, train),
        "note": _logit(LogisticRegression(), notes, labels, train),
        "image": _logit(LogisticRegression(), seen[:, None], labels, train),
    }
    single = {name: roc_auc_score(labels[~train], score) for name, score in scores.items()}
    together = roc_auc_score(labels[~train], sum(s / s.std() for s in scores.values()))
    assert min(single["tabular"], single["note"]) > 0.68
    assert max(single["tabular"], single["note"]) < 0.88
    assert together > max(single.values()) + 0.02


@pytest.fixture(scope="module")
def few():
    return population(FEW)


def _same(left, right, columns):
    for column in columns:
        present = left[column].notna()
        assert present.equals(right[column].notna()), column
        assert (left[column] == right[column])[present].all(), column


OTHERS = ("patient_id", "view", "site", "note", *CLINICAL, *FINDINGS)


def but(*names):
    return [name for name in OTHERS if name not in names]


def test_age_shift_moves_age_alone(few):
    old = population(FEW, age_shift=10)
    _same(old, few, but("age"))
    assert old["age"].mean() - few["age"].mean() == pytest.approx(10, abs=1.5)


def test_male_moves_sex_alone(few):
    men = population(FEW, male=0.9)
    _same(men, few, but("sex"))
    assert (men["sex"] == "male").sum() > 1.5 * (few["sex"] == "male").sum()


def test_site_mix_moves_the_site(few):
    moved = population(FEW, site_mix=(0, 0, 2))
    assert set(moved["site"]) == {"C"}
    _same(moved, few, ["patient_id", "note", "age", "temperature", *FINDINGS])


def test_prevalence_moves_one_finding(few):
    rare = population(FEW, prevalence_effusion=0.08)
    assert share(rare["effusion"]) == pytest.approx(0.08, abs=0.06)
    _same(rare, few, ["patient_id", "site", "age", "sex", "consolidation"])


def test_missing_moves_missingness_alone(few):
    holes = population(FEW, missing=2.0)
    assert holes["crp"].isna().mean() > 1.5 * few["crp"].isna().mean()
    _same(holes, few, but(*CLINICAL))
    both = holes["crp"].notna()
    assert holes.loc[both, "crp"].equals(few.loc[both, "crp"])


def test_a_lost_feature_is_lost_alone(few):
    lost = population(FEW, lost_feature="crp")
    assert lost["crp"].isna().all()
    _same(lost, few, but("crp"))


def test_crp_unit_divides_crp_by_ten(few):
    changed = population(FEW, crp_unit="mg/dL")
    _same(changed, few, but("crp"))
    ratio = (few["crp"] / changed["crp"])[few["crp"] > 20].dropna()
    assert ratio.to_numpy(float) == pytest.approx(10, rel=0.01)


def test_note_style_moves_the_notes_alone(few):
    styled = population(FEW, note_style="headings")
    _same(styled, few, but("note"))
    assert styled["note"].dropna().str.contains("HPC:|HCP:|PHC:").mean() > 0.95
    assert not few["note"].dropna().str.contains("HPC:").any()
    assert (styled["note"].isna() == few["note"].isna()).all()


def test_concept_moves_the_effusion_labels_of_the_old_alone(few, cases):
    drifted = population(FEW, concept=1.0)
    _same(drifted, few, but("effusion"))
    old = np.array([case.patient.age >= 65 for case in cases[:FEW]])
    assert drifted.loc[~old, "effusion"].equals(few.loc[~old, "effusion"])
    known = old & drifted["effusion"].notna()
    truth = np.array([case.illness.consolidation for case in cases[:FEW]])
    assert (drifted.loc[known, "effusion"].astype(bool) == truth[known]).all()


def test_concept_grows_with_its_strength(few):
    changed = [
        (population(FEW, concept=strength)["effusion"] != few["effusion"]).sum()
        for strength in (0.3, 0.8)
    ]
    assert 0 < changed[0] < changed[1]


def test_numbers_are_within_what_the_task_allows(plain):
    task = load_task("synthetic")
    ranges = {c.name: (c.minimum, c.maximum) for c in task.clinical if c.type == "number"}
    assert set(ranges) == set(NUMBERS)
    for name, (low, high) in ranges.items():
        assert plain[name].dropna().between(low, high).all()
