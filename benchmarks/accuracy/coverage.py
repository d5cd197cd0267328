"""Part `coverage`: how often intervals hold the truth, and tests reject, on simulated studies.

A patient's finding is shared by most of its images and its score by all of them, so that images of
one patient are far from independent. Scores of both classes are normal with one variance, of which
AUC, sensitivity and specificity follow; Brier score and calibration error come from a large sample.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from benchmarks.harness.parts import Row
from cxr_mm.evaluation.delong import auc_estimate, auc_test
from cxr_mm.evaluation.limits import calibration_error
from cxr_mm.evaluation.metrics import Floats, Scored, counted, expected_calibration_error
from cxr_mm.evaluation.resampling import exact_interval, multiplicities
from cxr_mm.evaluation.subgroups import Measured, gap_between
from cxr_mm.evaluation.subsets import formula_limits
from cxr_mm.evaluation.traits import SMALLEST_CLASS, SMALLEST_GROUP
from cxr_mm.explain.faithfulness.metrics import mean_with_interval

TRIALS, SEED = 500, 0
SEPARATION = 1.5
"""Distance of the classes' mean scores in standard deviations: an AUC of 0.856."""
OWN_LABEL = 0.2
"""Share of images, where a patient has several, that are labelled apart from the others."""
WORSE, WORSE_GROUP = 0.7, 0.9
"""By how much smaller the distance is of the other model, and of the second group, for power."""
STEEPNESS, SHIFT = 1.7, 0.5
"""Slope and intercept by which the logits of the overconfident model are wrong."""
FIGURES = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "brier": "Brier",
}
RESAMPLES = 500
BOOTSTRAP, MEAN = "AUC difference, bootstrap", "mean over studies"
OVERCONFIDENT, BAND = "ECE, overconfident", "band of a calibrated model"
TESTS = {
    "difference level": "AUC difference, level",
    "difference power": "AUC difference, power",
    "gap level": "subgroup gap, level",
    "gap power": "subgroup gap, power",
}
BOUNDS = {"coverage": (0.93, 0.97), "level": (0.03, 0.07)}
FEWEST = 100
"""Samples of which a share is given."""
LARGE = 200_000
"""Patients of the sample that the true Brier score and calibration error are read from."""
Counts = dict[str, list[bool]]


@dataclass(frozen=True)
class Setting:
    """Size of a simulated sample."""

    patients: int
    images: int
    prevalence: float

    def __str__(self) -> str:
        images = "1 image" if self.images == 1 else f"{self.images} images each"
        return f"{self.patients} patients, {images}, prevalence {self.prevalence:g}"


@dataclass(frozen=True)
class Simulated:
    """Labels (N,), patients (N,), noise of the score (2, N) of two models, and group (N,)."""

    setting: Setting
    labels: Floats
    patients: NDArray[np.intp]
    noise: Floats
    groups: NDArray[np.intp]

    @classmethod
    def draw(cls, setting: Setting, random: np.random.Generator) -> "Simulated":
        """Draw a sample; half of the noise is the patient's, and half of it is of both models."""
        patients = np.repeat(np.arange(setting.patients), setting.images)
        size = len(patients)
        shared = random.random(setting.patients)[patients]
        own = (random.random(size) < OWN_LABEL) & (setting.images > 1)
        chance = np.where(own, random.random(size), shared)
        parts = random.standard_normal((3, setting.patients))[:, patients]
        parts = (parts + random.standard_normal((3, size))) / np.sqrt(2)
        noise = (parts[:2] + parts[2]) / np.sqrt(2)
        labels = (chance < setting.prevalence).astype(np.float64)
        return cls(setting, labels, patients, noise, patients % 2)

    def scored(self, model: int = 0, separation: Floats | float = SEPARATION) -> Scored:
        """Predictions of a model whose probabilities are right."""
        middle = np.asarray(separation) / 2
        logits = separation * (self.labels * separation + self.noise[model] - middle)
        return self._scored(logit(self.setting.prevalence) + logits)

    def overconfident(self) -> Scored:
        """Predictions too extreme and too high."""
        return self._scored(STEEPNESS * logit(self.scored().probabilities) + SHIFT)

    def _scored(self, logits: Floats) -> Scored:
        return Scored(self.labels, expit(logits), logits > logit(self.setting.prevalence))


SETTINGS = [Setting(*size) for size in product((30, 80, 300), (1, 3), (0.1, 0.4))]


def measure() -> list[Row]:
    """Rows of every setting, and the extremes over all of them."""
    found = {}
    for setting in SETTINGS:
        print(f"coverage: {setting}", flush=True)
        found[setting] = simulate(setting, TRIALS)
    by_size = [
        _row(str(setting), name, held)
        for setting, counts in found.items()
        for name, held in counts.items()
        if len(held) >= FEWEST
    ]
    return [*_extremes(by_size), *by_size]


def simulate(setting: Setting, trials: int) -> Counts:
    """Figure → whether its interval holds the truth; test → whether it rejects; one per sample."""
    random = np.random.default_rng(
        [SEED, *map(int, (setting.patients, setting.images, 100 * setting.prevalence))]
    )
    truth = true_figures(setting.prevalence)
    counts: Counts = defaultdict(list)
    for _ in range(trials):
        sample = Simulated.draw(setting, random)
        if not 0 < sample.labels.sum() < len(sample.labels):
            continue
        for measured in (
            _coverage(sample, truth),
            _paired(sample),
            _difference(sample),
            _gap(sample),
        ):
            for name, held in measured:
                counts[name].append(held)
    return counts


@cache
def true_figures(prevalence: float) -> dict[str, float]:
    """Truth behind each name of FIGURES and OVERCONFIDENT."""
    large = Simulated.draw(Setting(LARGE, 1, prevalence), np.random.default_rng(SEED))
    right, wrong = large.scored(), large.overconfident()
    rate = float(norm.cdf(SEPARATION / 2))
    return {
        "AUC": float(norm.cdf(SEPARATION / np.sqrt(2))),
        **dict.fromkeys(("sensitivity", "specificity", "accuracy"), rate),
        "Brier": float(counted(right)["brier"][0]),
        "ECE": 0.0,
        OVERCONFIDENT: float(expected_calibration_error(wrong)[0]),
    }


def _coverage(sample: Simulated, truth: dict[str, float]) -> Iterator[tuple[str, bool]]:
    right, wrong, patients = sample.scored(), sample.overconfident(), sample.patients
    given = formula_limits(right, patients)
    found = {title: given[name] for name, title in FIGURES.items()}
    errors = {"ECE": calibration_error(right, patients)}
    errors[OVERCONFIDENT] = calibration_error(wrong, patients)
    found |= {title: error.limits if error else None for title, error in errors.items()}
    for title, limits in found.items():
        if limits:
            yield title, limits[0] <= truth[title] <= limits[1]
    if error := errors["ECE"]:
        yield BAND, error.band[0] <= error.plug_in <= error.band[1]


def _paired(sample: Simulated) -> Iterator[tuple[str, bool]]:
    """Of two models that are equally good, and of noise whose mean is 0."""
    patients = sample.patients
    weights = multiplicities(patients, RESAMPLES, SEED)
    ours, theirs = (auc_estimate(sample.scored(k), weights, patients) for k in (0, 1))
    if limits := (ours - theirs).interval:
        yield BOOTSTRAP, limits[0] <= 0 <= limits[1]
    found = mean_with_interval(sample.noise[0].tolist(), patients.astype(str).tolist())
    if found["low"] is not None and found["high"] is not None:
        yield MEAN, found["low"] <= 0 <= found["high"]


def _difference(sample: Simulated) -> Iterator[tuple[str, bool]]:
    for name, separation in (("level", SEPARATION), ("power", SEPARATION - WORSE)):
        scores = [model.probabilities for model in (sample.scored(), sample.scored(1, separation))]
        found = auc_test(sample.labels, scores, sample.patients)
        if found and np.isfinite(found.p):
            yield TESTS[f"difference {name}"], found.p < 0.05


def _gap(sample: Simulated) -> Iterator[tuple[str, bool]]:
    for name, less in (("level", 0.0), ("power", WORSE_GROUP)):
        separation: Floats = SEPARATION - less * sample.groups.astype(np.float64)
        scored = sample.scored(0, separation)
        if all(_enough(sample, sample.groups == group) for group in (0, 1)):
            groups = [_measured(sample, scored, group) for group in (0, 1)]
            gap = gap_between(groups, SEED)
            yield TESTS[f"gap {name}"], gap is not None and gap.excludes_equality


def _enough(sample: Simulated, here: NDArray[np.bool_]) -> bool:
    """Whether a subgroup is large enough to have an AUC in a report."""
    classes = (sample.patients[here & (sample.labels == label)] for label in (0, 1))
    fewest = min(len(np.unique(patients)) for patients in classes)
    return bool(here.sum() >= SMALLEST_GROUP and fewest >= SMALLEST_CLASS)


def _measured(sample: Simulated, scored: Scored, group: int) -> Measured:
    here = sample.groups == group
    part, patients = scored.where(here), sample.patients[here]
    once = np.ones((1, len(part)), dtype=np.uint16)
    estimate = auc_estimate(part, once, patients)
    return Measured.auc(str(group), estimate, part, patients, sample.setting.patients)


def _row(setting: str, name: str, held: list[bool]) -> Row:
    count = len(held)
    return Row(
        table="coverage: by size",
        task="simulated",
        row=setting,
        metric=name,
        value=float(np.mean(held)),
        ci95=exact_interval(float(np.mean(held)), count),
        n=count,
        seed=SEED,
    )


def _extremes(rows: list[Row]) -> Iterator[Row]:
    """Lowest and highest of each figure's coverage and of each test's level, with their bounds."""
    for name in dict.fromkeys(row.metric for row in rows):
        kind = "coverage" if name not in TESTS.values() else name.rpartition(", ")[2]
        if kind not in BOUNDS:
            continue
        own = [row for row in rows if row.metric == name]
        least, most = BOUNDS[kind]
        for which, bound, chosen in (
            ("lowest", least, min(own, key=lambda row: row.value)),
            ("highest", most, max(own, key=lambda row: row.value)),
        ):
            place = f"{name}: {which}, at {chosen.row}"
            update = {
                "table": "",
                "row": place,
                "metric": kind,
                "must": bound,
                "ceiling": which == "highest",
            }
            yield chosen.model_copy(update=update)
