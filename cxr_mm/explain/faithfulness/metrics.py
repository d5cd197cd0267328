"""Ranking: deletion and insertion (Petsiuk et al. 2018, RISE), sparsity, agreement of two rankings.

Deletion: does the logit fall faster when the parts that an attribution ranks first are taken out
than when parts are taken out at random? Insertion: does it rise faster as they are put back?
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor, nn

from cxr_mm.core.study import ClinicalValue, Study
from cxr_mm.core.types import FEWEST_PATIENTS, LEVEL, plural
from cxr_mm.data.clinical import check_clinical
from cxr_mm.explain.games import Coalitions, Game, sentences
from cxr_mm.explain.methods import DEFAULTS, METHODS
from cxr_mm.models.bundle import Bundle

STEPS = 5
RANDOM_ORDERS = 3
Scores = NDArray[np.float64]


def deletion_and_insertion(game: Game, scores: Scores, seed: int) -> dict[str, float]:
    """Area between an attribution's order and random order, in logits.

    Args:
        game: whose parts are taken out and put back.
        scores: (n,) what the attribution gives each.
        seed: of the random orders, which are the same for every method of a game.

    Returns:
        `deletion` and `insertion`, above 0 where the attribution finds what matters, 0 by chance.
    """
    rng = np.random.default_rng(seed)
    players = len(scores)
    random = [rng.permutation(players) for _ in range(RANDOM_ORDERS)]
    ties = rng.random(players)
    ranked = np.lexsort((ties, -scores))
    orders = [ranked, *random]
    stored = np.concatenate([_first(order) for order in orders])
    found = game.values(np.concatenate([stored, ~stored])).reshape(2, len(orders), -1).mean(axis=2)
    insertion, deletion = found
    return {
        "deletion": float(deletion[1:].mean() - deletion[0]),
        "insertion": float(insertion[0] - insertion[1:].mean()),
    }


def degraded(scores: Scores, share: float, rng: np.random.Generator) -> Scores:
    """Shuffle what a share of the parts is given among these parts.

    By this a figure of faithfulness is itself judged: an attribution must score the lower, the more
    of it is shuffled (Zheng et al. 2024, F-Fidelity).

    Args:
        scores: (n,) what an attribution gives each part.
        share: of the parts, in [0, 1].
        rng: which parts, and their new order.
    """
    chosen = rng.permutation(len(scores))[: round(share * len(scores))]
    changed = scores.copy()
    changed[chosen] = scores[rng.permutation(chosen)]
    return changed


def _first(order: NDArray[np.intp]) -> Coalitions:
    """Coalitions (STEPS, n) of ever more of the first players of an order."""
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    shares = (np.arange(STEPS) + 1) / (STEPS + 1)
    counts = np.ceil(shares * len(order)).clip(1, max(1, len(order) - 1))
    return rank[None, :] < counts[:, None]


def gini(scores: Scores) -> float:
    """Sparsity as the Gini index of absolute values (Chalasani et al. 2020): 0 all alike, 1 one."""
    sizes = np.sort(np.abs(scores))
    total = float(sizes.sum())
    if total <= 0:
        return 0.0
    count = len(sizes)
    weights = 2 * np.arange(1, count + 1) - count - 1
    return float((weights * sizes).sum() / (count * total))


def agreement(one: Scores, other: Scores) -> float | None:
    """Spearman's rank correlation of two attributions of the same parts; None where one is flat."""
    from scipy.stats import spearmanr

    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    found: Any = spearmanr(one, other)
    return float(found.statistic)


Depth = Literal["fusion", "upper", "all"]
DEPTHS: tuple[Depth, ...] = ("fusion", "upper", "all")
"""What is shuffled: the fusion; the upper half of the image encoder too; all of it too."""
NOISE = 0.01
"""Standard deviation: of grey values in [0, 1]; of a number, as a share of its range."""


def with_noise(bundle: Bundle, study: Study, seed: int) -> Study:
    """The study as another detector, another drop of blood, another choice of words might give it.

    Noise on every pixel and on every number that is known; one unit of the note left out.
    """
    rng = np.random.default_rng(seed)
    image = study.image
    if image is not None:
        grain = rng.normal(0, NOISE, image.shape).astype(np.float32)
        image = np.clip(image + grain, 0, 1)
    return replace(
        study,
        image=image,
        clinical=_jittered(bundle, study, rng),
        note=_shortened(study.note, rng) if study.note else study.note,
    )


def _jittered(bundle: Bundle, study: Study, rng: np.random.Generator) -> dict[str, ClinicalValue]:
    values = dict(check_clinical(bundle.task.clinical, study.clinical))
    for feature in bundle.task.clinical:
        value = values[feature.name]
        if feature.minimum is None or feature.maximum is None or not isinstance(value, float):
            continue
        width = feature.maximum - feature.minimum
        noisy = value + rng.normal(0, NOISE * width)
        values[feature.name] = float(np.clip(noisy, feature.minimum, feature.maximum))
    return values


def _shortened(note: str, rng: np.random.Generator) -> str:
    units = [unit for sentence in sentences(note) for unit in sentence]
    if len(units) < 2:
        return note
    left_out = int(rng.integers(len(units)))
    return " ".join(unit for k, unit in enumerate(units) if k != left_out)


def randomised(bundle: Bundle, depth: Depth, seed: int) -> Bundle:
    """The bundle with weights shuffled from the top down to a depth; itself stays as it is."""
    generator = torch.Generator().manual_seed(seed)
    fusion = copy.deepcopy(bundle.fusion)
    _shuffle(list(fusion.network.parameters()), generator)
    encoder = bundle.image_encoder
    if encoder is not None and depth != "fusion":
        encoder = copy.deepcopy(encoder)
        weights = list(encoder.backbone.parameters())
        _shuffle(weights[len(weights) // 2 :] if depth == "upper" else weights, generator)
    return replace(bundle, fusion=fusion, image_encoder=encoder)


@torch.no_grad()
def _shuffle(weights: Sequence[nn.Parameter], generator: torch.Generator) -> None:
    for weight in weights:
        flat: Tensor = weight.flatten()
        order = torch.randperm(len(flat), generator=generator)
        weight.copy_(flat[order].reshape(weight.shape))


def mean_with_interval(
    values: Sequence[float], patients: Sequence[str], level: float = LEVEL
) -> dict[str, float | None]:
    """Mean over studies, with an interval by Student's t over patients.

    The standard error is that of a ratio of two sums over patients (Cochran, Sampling Techniques,
    1977, chapter 6), since a patient may have several studies.

    Args:
        values: one a study.
        patients: whose each is.
        level: coverage of the interval.

    Returns:
        `value`, `low` and `high`; the limits are None for fewer than `FEWEST_PATIENTS`.
    """
    codes, names = pd.factorize(np.asarray(patients, dtype=object))
    sums = np.bincount(codes, weights=np.asarray(values, dtype=np.float64))
    sizes = np.bincount(codes)
    count, mean = len(names), float(sums.sum() / sizes.sum())
    if count < FEWEST_PATIENTS:
        return {"value": mean, "low": None, "high": None}
    residuals = sums - mean * sizes
    error = np.sqrt(count / (count - 1) * np.square(residuals).sum()) / sizes.sum()
    reach = float(-stdtrit(count - 1, (1 - level) / 2) * error)
    return {"value": mean, "low": mean - reach, "high": mean + reach}


def corrected_level(tried: int) -> float:
    """Coverage of an interval after Bonferroni's correction for all methods tried."""
    return 1 - (1 - LEVEL) / tried


@dataclass(frozen=True)
class Localisation:
    """Figures of one attribution against one mask, each in [0, 1]."""

    energy: float
    """Share of the attribution that lies inside the mask; 0 for an empty attribution."""
    pointing: float
    """1 where the highest value is inside the mask."""
    iou: float
    """Overlap of the mask with as many of the highest pixels as the mask has."""
    precision: float
    """Average precision of the pixels as a ranking: mean precision over the mask's pixels."""
    chance_energy: float
    """`energy`, `pointing` and `precision` expected of a map that knows nothing: the mask's share
    of area."""
    chance_iou: float
    """`iou` expected of that map."""


def localise(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> Localisation:
    """Compare an attribution with the true area.

    Args:
        values: (H, W), 0 or more.
        mask: (H, W), True where the finding is; not empty.

    Raises:
        ValueError: the shapes differ or the mask is empty.
    """
    from sklearn.metrics import average_precision_score

    if values.shape != mask.shape:
        raise ValueError(f"attribution {values.shape} and mask {mask.shape} differ in shape")
    if not mask.any():
        raise ValueError("the mask is empty")
    area = float(mask.mean())
    total = float(values.sum())
    empty = total <= 0
    return Localisation(
        energy=0.0 if empty else float(values[mask].sum()) / total,
        pointing=0.0 if empty else float(mask.flat[int(values.argmax())]),
        iou=0.0 if empty else _iou(values, mask),
        precision=area if empty else float(average_precision_score(mask.ravel(), values.ravel())),
        chance_energy=area,
        chance_iou=area / (2 - area),
    )


def _iou(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    count = int(mask.sum())
    highest = np.zeros(mask.size, dtype=bool)
    highest[np.argsort(values, axis=None, kind="stable")[-count:]] = True
    both = int(np.sum(highest & mask.ravel()))
    return both / (2 * count - both)


MEASURED_FROM = 30
"""Studies from which on a method counts as measured; an interval over fewer says nothing firm."""
NEEDED = f"{MEASURED_FROM} studies of {FEWEST_PATIENTS} patients"


def verdict(figures: Mapping[str, Any] | None) -> str:
    """Say how faithful a method is on this task and, of an image method, how well it points."""
    return f"{_order(figures)}{_place(figures)}"


def _order(figures: Mapping[str, Any] | None) -> str:
    if not figures or not is_measured(figures):
        few = f": {_counted(figures)}, {NEEDED} are needed" if figures else ""
        return f"How far it is faithful has not been measured for this model{few}."
    gain = figures["gain"]
    measured = (
        f"Its order beats a random one by {gain['value']:.2f} logits "
        f"({gain['low']:.2f} to {gain['high']:.2f}, {plural(figures['n'], 'study')})."
    )
    if not figures["better_than_chance"]:
        measured = f"Not shown to be better than chance here: {measured[0].lower()}{measured[1:]}"
    if not figures["depends_on_weights"]:
        measured += " It hardly depends on what the model has learnt: do not rely on it."
    return measured


def _place(figures: Mapping[str, Any] | None) -> str:
    """Sentence on whether an image method points better than a map that never looks."""
    if not figures or figures["modality"] != "image":
        return ""
    known = [found for found in (figures.get("areas") or {}).items() if is_measured(found[1])]
    if not known:
        return " Where it points has not been measured against true areas."
    finding, worst = min(known, key=lambda found: float(found[1]["against_average"]["low"]))
    compared = (
        f"the average location of {finding} in other patients (average precision "
        f"{worst['precision']['value']:.2f} against {worst['average_precision']['value']:.2f}, "
        f"{worst['n']} studies)"
    )
    if worst["beats_average"]:
        return f" It points better than {compared}."
    return f" It is not shown to point better than {compared}: do not read it as a place."


def is_measured(figures: Mapping[str, Any]) -> bool:
    """Whether a method was tried on enough studies, of enough patients, for a verdict."""
    return bool(figures["n"] >= MEASURED_FROM and figures["patients"] >= FEWEST_PATIENTS)


def _counted(figures: Mapping[str, Any]) -> str:
    return f"{plural(figures['n'], 'study')} of {plural(figures['patients'], 'patient')}"


def verdict_word(figures: Mapping[str, Any]) -> str:
    """The verdict as a cell of a table: `yes`, `no: …` or `not measured: …`."""
    if not is_measured(figures):
        return f"not measured: fewer than {NEEDED}"
    if not figures["better_than_chance"]:
        return "no: not shown to be better than chance"
    return "yes" if figures["depends_on_weights"] else "no: hardly depends on the weights"


def faithful_methods(faithfulness: Mapping[str, Any]) -> list[str]:
    """Choose methods where the user names none: the defaults, or instead of one that failed the
    first of its modality that did not."""
    chosen = []
    for name in DEFAULTS:
        others = [m.name for m in METHODS.values() if m.modality == METHODS[name].modality]
        found = next((r for r in [name, *others] if _passed(faithfulness.get(r))), None)
        chosen += [found] if found else []
    return chosen


def _passed(figures: Mapping[str, Any] | None) -> bool:
    """Not known to have failed."""
    return (
        not figures
        or not is_measured(figures)
        or bool(figures["better_than_chance"] and figures["depends_on_weights"])
    )
