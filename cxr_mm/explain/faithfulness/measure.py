"""Measure: every method on some held-out studies, and which methods are faithful."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from cxr_mm.core.errors import StageError
from cxr_mm.core.study import Study
from cxr_mm.core.types import LEVEL, Modality
from cxr_mm.data.synthetic.phantom import CONSOLIDATION_BIT, EFFUSION_BIT
from cxr_mm.explain.attribution import Attribution, Target
from cxr_mm.explain.budget import TimeBudget
from cxr_mm.explain.cases import Studies
from cxr_mm.explain.faithfulness.metrics import (
    DEPTHS,
    Scores,
    agreement,
    deletion_and_insertion,
    gini,
    localise,
    mean_with_interval,
    randomised,
    verdict_word,
    with_noise,
)
from cxr_mm.explain.games import ClinicalGame, Game, ImageGame, NoteGame, grid
from cxr_mm.explain.methods import METHODS, Ask, Method
from cxr_mm.explain.subject import Subject
from cxr_mm.imaging.geometry import mask_to_square
from cxr_mm.models.bundle import Bundle

CELLS = 14
SAME = 0.5
"""Rank correlation with the trained model's explanation above which a shuffled model's is the
same."""
Row = dict[str, Any]


def measure(
    bundle: Bundle, cases: Iterable[tuple[Study, Target]], methods: Sequence[Method], seed: int
) -> dict[str, Any]:
    """Figures of every method.

    Args:
        bundle: the model.
        cases: held-out studies, and what is explained of each.
        methods: which; those whose modality a study lacks are left out for it.
        seed: of every random draw.

    Returns:
        Method → `title`, `modality`, `n`, `patients`, means with intervals over patients of
        `deletion`, `insertion` and `gain` (their mean) in logits, `sparsity`, `noise`, `seeds`,
        `randomised` (depth → rank correlation), and the verdicts `better_than_chance` (by the lower
        limit of the gain, corrected after Bonferroni for all methods of the task),
        `depends_on_weights` and, in words, `faithful`.
    """
    rows: list[Row] = []
    for number, (study, target) in enumerate(cases):
        rows += _of_study(bundle, study, target, methods, seed + number)
    table = pd.DataFrame(rows)
    # Quick and slow methods are measured apart and are one family all the same.
    family = [each for each in METHODS.values() if each.modality in bundle.task.modalities]
    level = 1 - (1 - LEVEL) / len(family)
    return {
        method.name: _summary(method, table[table["method"] == method.name], level)
        for method in methods
        if len(table) and (table["method"] == method.name).any()
    }


def _of_study(
    bundle: Bundle, study: Study, target: Target, methods: Sequence[Method], seed: int
) -> list[Row]:
    subject = Subject(bundle, study)
    noisy = Subject(bundle, with_noise(bundle, study, seed))
    shuffled = {depth: Subject(randomised(bundle, depth, seed), study) for depth in DEPTHS}
    rows = []
    games: dict[Modality, Game] = {}
    for method in methods:
        if method.modality not in subject.present:
            continue
        if method.modality not in games:
            games[method.modality] = game_of(subject, target, method.modality)
        game, ask = games[method.modality], Ask(seed)
        result = method.explain(subject, target, ask)
        scores = part_scores(game, result)
        row: Row = {"method": method.name, "patient_id": study.patient_id}
        row |= deletion_and_insertion(game, scores, seed)
        row["gain"] = (row["deletion"] + row["insertion"]) / 2
        row["sparsity"] = gini(scores)
        row["noise"] = _against(game, result, scores, method.explain(noisy, target, ask))
        if method.seeded:
            again = method.explain(subject, target, Ask(seed + 1))
            row["seeds"] = _against(game, result, scores, again)
        for depth in DEPTHS if method.modality == "image" else DEPTHS[:1]:
            other = method.explain(shuffled[depth], target, ask)
            row[f"randomised.{depth}"] = _against(game, result, scores, other)
        if "r2" in result.extra:
            row["r2"] = result.extra["r2"]
        rows.append(row)
    return rows


def game_of(subject: Subject, target: Target, modality: Modality) -> Game:
    """The game on which all methods of a modality are compared."""
    if modality == "image":
        return ImageGame(subject, target, grid(subject, CELLS))
    return ClinicalGame(subject, target) if modality == "tabular" else NoteGame(subject, target)


def part_scores(game: Game, attribution: Attribution) -> Scores:
    """What an attribution gives each part of a game (n,)."""
    if isinstance(game, ImageGame):
        return game.scores(attribution.values)
    return attribution.values.astype(np.float64)


def _against(
    game: Game, attribution: Attribution, scores: Scores, other: Attribution
) -> float | None:
    """Agreement with another attribution of the same parts, or of all of them but one."""
    if isinstance(game, ImageGame) or attribution.names == other.names:
        return agreement(scores, part_scores(game, other))
    left = next(
        (k for k, (a, b) in enumerate(zip(attribution.names, other.names, strict=False)) if a != b),
        len(other.names),
    )
    if attribution.names[:left] + attribution.names[left + 1 :] != other.names:
        return None  # a word left out has made other units of its neighbours
    return agreement(np.delete(scores, left), other.values.astype(np.float64))


def _summary(method: Method, rows: pd.DataFrame, level: float) -> dict[str, Any]:
    names = rows.columns.drop(["method", "patient_id"])
    figures = {str(name): _mean(rows, str(name)) for name in names}
    limit = (_mean(rows, "gain", level) or {}).get("low")
    changed = figures["randomised.all" if method.modality == "image" else "randomised.fusion"]
    summary = {
        "title": method.title,
        "modality": method.modality,
        "n": len(rows),
        "patients": rows["patient_id"].nunique(),
        **{name: figure for name, figure in figures.items() if figure and "." not in name},
        "randomised": {
            depth: figures[f"randomised.{depth}"]
            for depth in DEPTHS
            if figures.get(f"randomised.{depth}")
        },
        "better_than_chance": limit is not None and limit > 0,
        "depends_on_weights": changed is None or (changed["value"] or 0) < SAME,
    }
    return {**summary, "faithful": verdict_word(summary)}


def _mean(rows: pd.DataFrame, name: str, level: float = LEVEL) -> dict[str, float | None] | None:
    known = rows[rows[name].notna()]
    if not len(known):
        return None
    values = known[name].astype(float).tolist()
    return {**mean_with_interval(values, known["patient_id"].tolist(), level), "n": len(known)}


BITS = {"consolidation": CONSOLIDATION_BIT, "effusion": EFFUSION_BIT}
Mask = NDArray[np.bool_]


def localisation_figures(
    bundle: Bundle,
    studies: Studies,
    heldout: pd.DataFrame,
    methods: Sequence[Method],
    count: int,
    seed: int,
    budget: TimeBudget,
) -> dict[str, Any]:
    """Image methods against the true masks, on held-out studies that have the finding.

    Args:
        bundle: the model.
        studies: where the images are.
        heldout: rows of one subset, one a study.
        methods: which.
        count: studies of a finding at most.
        seed: of the choice and the methods.
        budget: time for all findings, in equal parts.

    Returns:
        Finding → method → n, and mean with interval of each figure of `Localisation`, and of `gain`
        (energy less what chance gives).
    """
    figures: dict[str, Any] = {}
    findings = [f for f in bundle.task.finding_names if f in BITS]
    for place, finding in enumerate(findings):
        rows = heldout[heldout[f"label.{finding}"] == 1].sample(frac=1, random_state=seed)
        usable = [str(s) for s in rows["study_id"] if studies.has_image(s) and studies.mask_file(s)]

        def true_area(study_id: str, bit: int = BITS[finding]) -> Mask | None:
            path = studies.mask_file(study_id)
            return None if path is None else _bits(path) & bit > 0

        part = budget.part(1 / (len(findings) - place))
        in_time = part.each(f"true areas of {finding}", usable[:count])
        figures[finding] = _figures_against(
            bundle, studies, in_time, methods, finding, true_area, seed
        )
    return figures


def lung_figures(
    bundle: Bundle,
    studies: Studies,
    chosen: Sequence[str],
    methods: Sequence[Method],
    folder: Path,
    seed: int,
    budget: TimeBudget,
) -> dict[str, Any]:
    """Image methods against masks of the lungs that the user gives, as PNG by the image's name.

    Raises:
        StageError: none of the studies has a mask there.
    """
    present = [s for s in chosen if (mask := _lung_mask(studies, folder, s)) and mask.is_file()]
    if not present:
        raise StageError(
            "none of the images has a mask there",
            field=f"explain.lung_masks: {folder}",
            remedy="Name each mask as its image, with the ending .png",
        )

    def lungs(study_id: str) -> Mask | None:
        path = _lung_mask(studies, folder, study_id)
        return None if path is None else _bits(path) > 0

    figures = {}
    for place, finding in enumerate(names := bundle.task.finding_names):
        part = budget.part(1 / (len(names) - place))
        in_time = part.each(f"lungs, {finding}", present)
        figures[finding] = _figures_against(bundle, studies, in_time, methods, finding, lungs, seed)
    return figures


def _lung_mask(studies: Studies, folder: Path, study_id: str) -> Path | None:
    image = studies.image_file(study_id)
    return None if image is None else folder / f"{image.stem}.png"


def _bits(path: Path) -> NDArray[np.uint8]:
    with Image.open(path, formats=["PNG"]) as image:
        return np.asarray(image.convert("L"), dtype=np.uint8)


def _figures_against(
    bundle: Bundle,
    studies: Studies,
    chosen: Iterable[str],
    methods: Sequence[Method],
    finding: str,
    area: Callable[[str], Mask | None],
    seed: int,
) -> dict[str, Any]:
    """Figures of each method over the studies whose area left a trace."""
    rows: list[Row] = []
    for study_id in chosen:
        true = area(study_id)
        mask = None if true is None else mask_to_square(true, bundle.size)
        if mask is not None and mask.any():
            subject = Subject(bundle, studies.study(study_id, with_image=True))
            rows += [_localised(subject, mask, method, finding, seed) for method in methods]
    if not rows:
        return {}
    table = pd.DataFrame(rows)
    table["gain"] = table["energy"] - table["chance_energy"]
    return {
        str(name): _means(own.drop(columns="method"))
        for name, own in table.groupby("method", sort=False)
    }


def _means(table: pd.DataFrame) -> dict[str, Any]:
    patients = table.pop("patient_id").astype(str).tolist()
    return {
        "n": len(table),
        **{str(n): mean_with_interval(c.tolist(), patients) for n, c in table.items()},
    }


def _localised(subject: Subject, mask: Mask, method: Method, finding: str, seed: int) -> Row:
    """Figures over the image, without the black margin."""
    result = method.explain(subject, Target(finding), Ask(seed))
    inside = subject.image_box
    figures = localise(np.maximum(result.values[inside], 0), mask[inside])
    return {
        "method": method.name,
        "patient_id": subject.study.patient_id,
        **asdict(figures),
    }
