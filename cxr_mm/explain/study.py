"""Study: everything that explains one prediction, the quick parts first."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cxr_mm.contracts.explanation import Explanation, Target
from cxr_mm.explain.methods import METHODS, Ask, Method, method
from cxr_mm.explain.shares import modality_shares
from cxr_mm.explain.subject import Subject


def explain_study(
    subject: Subject, target: Target, methods: Sequence[str], ask: Ask | None = None
) -> Explanation:
    """Shares of the modalities, and what each method says.

    Args:
        subject: the study.
        target: finding to explain.
        methods: names out of `METHODS`; those whose modality the study lacks are left out.
        ask: seed, and who watches.

    Raises:
        InputError: there is no such finding or method.
        CancelledError: the watch says so.
    """
    *_, last = explaining(subject, target, methods, ask)
    return last


def explaining(
    subject: Subject, target: Target, methods: Sequence[str], ask: Ask | None = None
) -> Iterator[Explanation]:
    """As `explain_study`, giving what there is so far: shares alone, then a method more each time.

    Raises:
        InputError, CancelledError: as `explain_study`.
    """
    chosen = in_order(subject, methods)
    subject.column(target)
    said = modality_shares(subject)[target.finding]
    yield said
    for each in chosen:
        found = each.explain(subject, target, ask or Ask())
        said = replace(said, attributions=(*said.attributions, found))
        yield said


def in_order(subject: Subject, methods: Sequence[str]) -> list[Method]:
    """The named methods that have something to explain in this study, quick ones first.

    Raises:
        InputError: there is no such method.
    """
    chosen = [method(name) for name in dict.fromkeys(methods)]
    usable = [each for each in chosen if each.modality in subject.present]
    order = list(METHODS)
    return sorted(usable, key=lambda each: (each.slow, order.index(each.name)))
