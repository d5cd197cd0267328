"""Part `degradation`: the figures of faithfulness themselves, judged by attributions made worse.

Regions of an image are removed in two ways: by those of the baseline image, as the figures of the
stage `explain` have it, and by noisy linear imputation (ROAD), which costs a linear system for each
coalition and therefore judges here, and not in the stage.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.harness.parts import Row
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.study import Study
from cxr_mm.core.task import load_task
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.faithfulness.measure import game_of, part_scores
from cxr_mm.explain.faithfulness.metrics import agreement, degraded, deletion_and_insertion
from cxr_mm.explain.faithfulness.road import RoadGame
from cxr_mm.explain.games import Game, ImageGame
from cxr_mm.explain.methods import METHODS, Ask
from cxr_mm.explain.stage import open_outputs
from cxr_mm.explain.subject import Subject
from cxr_mm.models.bundle import Bundle

STUDIES, DRAWS, SEED = 30, 3, 0
IMPUTED = "image, imputed"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the parts, whose values are shuffled."""
TRIED = {
    "image": "grad_cam",
    IMPUTED: "grad_cam",
    "tabular": "shap_tabular",
    "note": "shap_note",
}
"""What is removed, and the method that is made worse."""
FIGURES = ("deletion", "insertion", "gain")
MUST = 0.95


def measure(paths: TaskPaths) -> list[Row]:
    """Rows of a task."""
    return rows_of(paths.task, figures_of(*_cases(paths)))


def _cases(paths: TaskPaths) -> tuple[Bundle, list[tuple[Study, Target]]]:
    task = load_task(paths.task)
    bundle, heldout, studies = open_outputs(task, paths)
    names = heldout.sample(frac=1, random_state=SEED)["study_id"].astype(str)
    chosen = [s for s in names if studies.has_image(s) or not task.has_image][:STUDIES]
    findings = bundle.task.finding_names
    return bundle, [
        (studies.study(study_id, with_image=True), Target(findings[k % len(findings)]))
        for k, study_id in enumerate(chosen)
    ]


def figures_of(bundle: Bundle, cases: Iterable[tuple[Study, Target]]) -> pd.DataFrame:
    """A row for each study, way of removing, share and draw, with every one of `FIGURES`."""
    rows = [
        row for number, case in enumerate(cases) for row in _of_study(bundle, *case, SEED + number)
    ]
    table = pd.DataFrame(rows)
    table["gain"] = (table["deletion"] + table["insertion"]) / 2
    return table


def _of_study(bundle: Bundle, study: Study, target: Target, seed: int) -> Iterator[dict[str, Any]]:
    subject, rng = Subject(bundle, study), np.random.default_rng(seed)
    for removed, name in TRIED.items():
        if METHODS[name].modality not in subject.present:
            continue
        game = _game(subject, target, removed)
        scores = part_scores(game, METHODS[name].explain(subject, target, Ask(seed)))
        for share in SHARES:
            for _ in range(DRAWS if share else 1):
                worse = degraded(scores, share, rng)
                facts = {"study": study.study_id, "removed": removed, "share": share}
                yield facts | deletion_and_insertion(game, worse, seed)


def _game(subject: Subject, target: Target, removed: str) -> Game:
    game = game_of(subject, target, METHODS[TRIED[removed]].modality)
    if removed == IMPUTED:
        assert isinstance(game, ImageGame)
        return RoadGame(subject, target, game.regions)
    return game


def rows_of(task: str, table: pd.DataFrame) -> list[Row]:
    """Mean of each figure by share, and its rank correlation with the share left as it was."""
    rows = []
    for removed, name in TRIED.items():
        own = table[table["removed"] == removed]
        if own.empty:
            continue
        facts = {"task": task, "n": own["study"].nunique(), "seed": SEED}
        # Of a study first, so that one without draws (share 0) counts as much as another.
        means = own.groupby(["share", "study"])[list(FIGURES)].mean().groupby("share").mean()
        for figure in FIGURES:
            row = f"{removed}: {figure} of {name}"
            for share, value in zip(SHARES, means[figure], strict=True):
                metric = f"{100 * share:.0f} % shuffled"
                rows.append(Row(row=row, metric=metric, value=round(value, 4), **facts))
            ranked = agreement(1 - means.index.to_numpy(np.float64), means[figure].to_numpy())
            rows.append(
                Row(
                    row=row,
                    metric="rank correlation",
                    value=round(ranked or 0.0, 4),
                    must=MUST,
                    **facts,
                )
            )
    return rows
