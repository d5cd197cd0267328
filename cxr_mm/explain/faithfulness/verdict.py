"""Words: what the faithfulness figures of a method mean, in a sentence."""

from collections.abc import Mapping
from typing import Any

from cxr_mm.explain.methods import DEFAULTS, METHODS


def verdict(figures: Mapping[str, Any] | None) -> str:
    """Say in a sentence how faithful a method is on this task."""
    if not figures:
        return "How far it is faithful has not been measured for this model."
    gain = figures["gain"]
    measured = (
        f"Its order beats a random one by {gain['value']:.2f} logits "
        f"({gain['low']:.2f} to {gain['high']:.2f}, {figures['n']} studies)."
    )
    if not figures["better_than_chance"]:
        measured = f"No better than chance here: {measured[0].lower()}{measured[1:]}"
    if not figures["depends_on_weights"]:
        measured += " It hardly depends on what the model has learnt: do not rely on it."
    return measured


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
    return not figures or bool(figures["better_than_chance"] and figures["depends_on_weights"])
