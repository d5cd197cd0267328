"""Gallery: right and wrong held-out predictions, each with its shares and its film."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from cxr_mm.contracts.explanation import Explanation, Target
from cxr_mm.explain import render
from cxr_mm.explain.cam import cam
from cxr_mm.explain.cases import Case, Studies
from cxr_mm.explain.gallery_page import card
from cxr_mm.explain.shares import modality_shares
from cxr_mm.explain.subject import Subject
from cxr_mm.models.bundle import Bundle

DRAWN = 400


def drawn_cases(
    bundle: Bundle, studies: Studies, cases: Sequence[Case], folder: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Draw every film into `folder/films`; what is known of each case, and its HTML."""
    (folder / "films").mkdir()
    entries: list[dict[str, Any]] = []
    cards: list[str] = []
    for case in tqdm(cases, desc="explain", leave=False):
        entry, said, drawn = _case(bundle, studies, case)
        image = None if drawn is None else render.data_uri(drawn)
        if drawn is not None:
            entry["film"] = f"films/{len(entries):02d}.png"
            (folder / entry["film"]).write_bytes(render.png(drawn))
        cards.append(card(bundle.task, case, said, image))
        entries.append(entry)
    return entries, cards


def _case(
    bundle: Bundle, studies: Studies, case: Case
) -> tuple[dict[str, Any], Explanation, NDArray[Any] | None]:
    """What is known of a case, its modality shares, and the drawn film; None without a film."""
    subject = Subject(bundle, studies.study(case.study_id, film=True))
    said = modality_shares(subject)[case.finding]
    parts = {"base": said.base, "shares": said.shares, "logit": said.logit, "film": None}
    entry: dict[str, Any] = {**asdict(case), **parts}
    if subject.study.image is None or "image" not in subject.present:
        return entry, said, None
    attribution = cam(subject, Target(case.finding))
    entry["empty"] = attribution.extra["empty"]
    return entry, said, render.overlay(subject.study.image, attribution.values, longest=DRAWN)
