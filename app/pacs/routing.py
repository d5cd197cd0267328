"""Routing: the first rule that fits an image says which model answers it, or why none does."""

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from app.pacs.settings import Destination, Rule
from cxr_mm.imaging.dicom import CHEST
from cxr_mm.imaging.radiograph import LATERAL

NO_RULE = "no rule takes this image"


@dataclass(frozen=True)
class Facts:
    """What rules ask of an image.

    Args:
        peer: name of the sender.
        modality, body_part, view: of the header, upper case, empty where it says nothing.
        descriptions: of series and study.
    """

    peer: str
    modality: str = ""
    body_part: str = ""
    view: str = ""
    descriptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Route:
    """An image that a model answers.

    Args:
        bundle: folder or pointer of the model.
        destinations: where the answer goes.
        says_not_analysed: whether a report says so, if it cannot be answered.
        answers_again: whether it is answered again when clinical context arrives later.
    """

    bundle: Path
    destinations: tuple[Destination, ...]
    says_not_analysed: bool
    answers_again: bool = False


@dataclass(frozen=True)
class Refusal:
    """An image that no model is asked about.

    Args:
        reason: why.
        destinations: where the report goes that says so; empty for none.
    """

    reason: str
    destinations: tuple[Destination, ...] = ()


def facts_of(peer: str, header: Dataset) -> Facts:
    """What rules ask of an image, of its header."""
    texts = (str(header.get(n) or "") for n in ("SeriesDescription", "StudyDescription"))
    modality, part, view = (
        str(header.get(name) or "").strip().upper()
        for name in ("Modality", "BodyPartExamined", "ViewPosition")
    )
    return Facts(peer, modality, part, view, tuple(text for text in texts if text))


def route(rules: tuple[Rule, ...], facts: Facts) -> Route | Refusal:
    """Find what becomes of an image.

    A rule with a bundle that names no view takes no lateral image, and one that names no body
    part takes none of another part than the chest: models of chest radiographs were never shown
    any. What is left over by every rule is refused.
    """
    rule = next((rule for rule in rules if _fits(rule, facts)), None)
    if rule is None:
        return Refusal(NO_RULE)
    says = rule.destinations if rule.not_analysed == "sr" else ()
    if rule.bundle is None:
        return Refusal(rule.refuse, says)
    if not rule.view and facts.view in LATERAL:
        return Refusal(f"lateral view ({facts.view})", says)
    if not rule.body_part and facts.body_part and not CHEST.search(facts.body_part):
        return Refusal("body part is not the chest", says)
    says_so = rule.not_analysed == "sr"
    return Route(rule.bundle, rule.destinations, says_so, rule.answer_again)


def _fits(rule: Rule, facts: Facts) -> bool:
    if rule.senders and facts.peer not in rule.senders:
        return False
    fields = (
        (rule.modality, facts.modality),
        (rule.body_part, facts.body_part),
        (rule.view, facts.view),
    )
    named = all(not terms or value in {t.upper() for t in terms} for terms, value in fields)
    return named and rule.describes(*facts.descriptions)
