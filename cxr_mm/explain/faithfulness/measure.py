"""Measure: every method on some held-out studies, and which methods are faithful."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cxr_mm.core.study import Study
from cxr_mm.core.types import LEVEL, Modality
from cxr_mm.explain.attribution import Attribution, Target
from cxr_mm.explain.faithfulness.metrics import (
    DEPTHS,
    Scores,
    agreement,
    corrected_level,
    deletion_and_insertion,
    gini,
    mean_with_interval,
    randomised,
    verdict_word,
    with_noise,
)
from cxr_mm.explain.games import ClinicalGame, Game, ImageGame, NoteGame, grid
from cxr_mm.explain.methods import METHODS, Ask, Method
from cxr_mm.explain.subject import Subject
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
    level = corrected_level(len(family))
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
