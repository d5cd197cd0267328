"""Part `degradation`: the figures of faithfulness themselves, judged by attributions made worse."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.harness.outputs import after
from benchmarks.harness.parts import Row
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.study import Study
from cxr_mm.core.task import load_task, shipped_tasks
from cxr_mm.core.types import Modality
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.faithfulness.measure import game_of, part_scores
from cxr_mm.explain.faithfulness.metrics import agreement, degraded, deletion_and_insertion
from cxr_mm.explain.methods import METHODS, Ask
from cxr_mm.explain.stage import open_outputs
from cxr_mm.explain.subject import Subject
from cxr_mm.models.bundle import Bundle

STUDIES, DRAWS, SEED = 30, 3, 0
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the parts, whose values are shuffled."""
TRIED: dict[Modality, str] = {
    "image": "grad_cam",
    "tabular": "shap_tabular",
    "note": "shap_note",
}
FIGURES = ("deletion", "insertion", "gain")
MUST = 0.95


def measure() -> list[Row]:
    """Rows of every task that has a bundle; says which are left out."""
    return [
        row
        for paths in after("fuse", "degradation", shipped_tasks())
        for row in rows_of(paths.task, figures_of(*_cases(paths)))
    ]


def _cases(paths: TaskPaths) -> tuple[Bundle, list[tuple[Study, Target]]]:
    task = load_task(paths.task)
    bundle, heldout, studies = open_outputs(task, paths)
    names = heldout.sample(frac=1, random_state=SEED)["study_id"].astype(str)
    chosen = [s for s in names if studies.has_image(s) or not task.has_image][:STUDIES]
    findings = task.finding_names
    return bundle, [
        (studies.study(study_id, with_image=True), Target(findings[k % len(findings)]))
        for k, study_id in enumerate(chosen)
    ]


def figures_of(bundle: Bundle, cases: Iterable[tuple[Study, Target]]) -> pd.DataFrame:
    """A row for each study, modality, share and draw, with every one of `FIGURES`."""
    rows = [
        row for number, case in enumerate(cases) for row in _of_study(bundle, *case, SEED + number)
    ]
    table = pd.DataFrame(rows)
    table["gain"] = (table["deletion"] + table["insertion"]) / 2
    return table


def _of_study(bundle: Bundle, study: Study, target: Target, seed: int) -> Iterator[dict[str, Any]]:
    subject, rng = Subject(bundle, study), np.random.default_rng(seed)
    for modality, name in TRIED.items():
        if modality not in subject.present:
            continue
        game = game_of(subject, target, modality)
        scores = part_scores(game, METHODS[name].explain(subject, target, Ask(seed)))
        for share in SHARES:
            for draw in range(DRAWS if share else 1):
                worse = degraded(scores, share, rng)
                facts = {"study": study.study_id, "modality": modality, "share": share}
                yield facts | deletion_and_insertion(game, worse, seed + draw)


def rows_of(task: str, table: pd.DataFrame) -> list[Row]:
    """Mean of each figure by share, and its rank correlation with the share left as it was."""
    rows = []
    for modality, name in TRIED.items():
        own = table[table["modality"] == modality]
        if own.empty:
            continue
        facts = {"task": task, "n": own["study"].nunique(), "seed": SEED}
        # Of a study first, so that one without draws (share 0) counts as much as another.
        means = own.groupby(["share", "study"])[list(FIGURES)].mean().groupby("share").mean()
        for figure in FIGURES:
            row = f"{modality}: {figure} of {name}"
            for share, value in zip(SHARES, means[figure], strict=True):
                metric = f"{100 * share:.0f} % shuffled"
                rows.append(Row(row=row, metric=metric, value=round(value, 4), **facts))
            ranked = agreement(1 - means.index.to_numpy(np.float64), means[figure].to_numpy())
            rows.append(
                Row(row=row, metric="rank correlation", value=ranked or 0.0, must=MUST, **facts)
            )
    return rows
