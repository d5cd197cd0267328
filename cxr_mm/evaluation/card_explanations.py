"""Model card, explanations: how far each method can be believed on this model."""

from collections.abc import Mapping
from typing import Any

from cxr_mm.contracts.modality import Modality
from cxr_mm.evaluation.card_data import MODALITY_TITLES
from cxr_mm.evaluation.evidence import Evidence
from cxr_mm.evaluation.markdown import NONE, plain, table

HOW = (
    "Gain: how much faster the logit falls and rises, in logits, as parts are taken out and put "
    "back in the method's order rather than a random one. Noise and seeds: rank correlation with "
    "the explanation of a slightly disturbed study, and of another draw. Shuffled: the same with "
    "that of a model whose weights have lost their places, which should be near 0."
)


def explanation_section(evidence: Evidence) -> str:
    """A row for each method; empty where the stage `explain` has not measured this bundle."""
    methods: Mapping[str, Any] = evidence.faithfulness.get("methods", {})
    if not methods:
        return ""
    rows = [_row(figures) for figures in methods.values()]
    heads = ["Method", "Studies", "Gain", "Sparsity", "Noise", "Seeds", "Shuffled", "Believed"]
    parts = ["## Explanations", HOW, table(heads, rows)]
    return "\n\n".join([*parts, *_areas(evidence)])


def _row(figures: Mapping[str, Any]) -> list[object]:
    modality: Modality = figures["modality"]
    shuffled = list(figures["randomised"].values())
    if not figures["better_than_chance"]:
        believed = "no: chance"
    else:
        believed = "yes" if figures["depends_on_weights"] else "no: not of the weights"
    return [
        f"{plain(figures['title'])} ({MODALITY_TITLES[modality]})",
        figures["n"],
        *(_figure(figures.get(name)) for name in ("gain", "sparsity", "noise", "seeds")),
        _figure(shuffled[-1] if shuffled else None),
        believed,
    ]


def _areas(evidence: Evidence) -> list[str]:
    """How much of each image method lies in the true areas, where the source knows them."""
    titles = {name: m["title"] for name, m in evidence.faithfulness["methods"].items()}
    rows: list[list[object]] = [
        [
            f"{plain(titles.get(name, name))}, {plain(evidence.title(finding))}",
            figures["n"],
            *(_figure(figures[area]) for area in ("energy", "pointing", "iou", "chance_energy")),
        ]
        for finding, methods in (evidence.faithfulness.get("localisation") or {}).items()
        for name, figures in methods.items()
    ]
    if not rows:
        return []
    heads = ["In the true area", "Studies", "Energy", "Highest point", "Overlap", "By chance"]
    return [table(heads, rows)]


def _figure(figure: Mapping[str, float] | None) -> str:
    if not figure:
        return NONE
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"
