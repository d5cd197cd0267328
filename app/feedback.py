"""Feedback: a reader's assessment of a prediction, as outcomes for the log; no Gradio."""

import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from cxr_mm.core.errors import InputError
from cxr_mm.core.prediction import Prediction
from cxr_mm.core.record import LONGEST_COMMENT, Outcome
from cxr_mm.core.task import Task

Verdict = Literal["agree", "disagree"]
PRESENT, ABSENT, NOT_SURE = "present", "absent", "not sure"
WORDS = {
    **dict.fromkeys((PRESENT, "positive", "yes", "true", "1", "1.0"), PRESENT),
    **dict.fromkeys((ABSENT, "negative", "no", "false", "0", "0.0"), ABSENT),
    **dict.fromkeys((NOT_SURE, "", "none"), NOT_SURE),
}
"""What a program may write for a label, in lower case."""
LABELS = {PRESENT: 1, ABSENT: 0}


def outcomes_of(
    prediction: Prediction,
    task: Task,
    verdict: Verdict,
    labels: Mapping[str, Any],
    comment: str,
    hash_id: Callable[[str], str],
) -> list[Outcome]:
    """Make an outcome of each finding that the reader has assessed.

    Args:
        prediction: what the reader was shown.
        task: of the prediction.
        verdict: `agree` takes every label as the model said it, `disagree` as the reader does.
        labels: where the reader disagrees, finding → `present`, `absent` or `not sure`, which is
            also meant where a finding is missing; or 1 and 0, true and false, yes and no. Of a
            multiclass task one finding is `present`; the others are then absent.
        comment: kept with each outcome, without control characters.
        hash_id: of the log.

    Raises:
        InputError: a disagreement names no label, or none but the model's own; more than one
            class is present; a finding or label is unknown; the comment is too long.
    """
    result = {f.finding: int(f.positive) for f in prediction.findings}
    found = result if verdict == "agree" else _of_reader(task, labels)
    if verdict == "disagree" and found == result:
        raise InputError(
            "Every label is as the model said", field="feedback", remedy="Agree, or change one"
        )
    text, now = clean(comment), datetime.now(UTC)
    study = hash_id(prediction.study_id)
    return [
        Outcome(
            study_hash=study,
            finding=name,
            label=label,
            recorded_at=now,
            source="feedback",
            comment=text,
        )
        for name, label in found.items()
    ]


def clean(comment: str) -> str:
    """A comment on one line, without control characters, surrogates and invisible marks.

    Raises:
        InputError: it is longer than 500 characters.
    """
    hidden = ("Cc", "Cf", "Cs")
    stored = (" " if unicodedata.category(c) in hidden else c for c in comment)
    text = " ".join("".join(stored).split())
    if len(text) > LONGEST_COMMENT:
        raise InputError(
            f"It has {len(text)} characters",
            field="comment",
            remedy=f"Use at most {LONGEST_COMMENT}",
        )
    return text


def _of_reader(task: Task, labels: Mapping[str, Any]) -> dict[str, int]:
    words = {name: WORDS.get(str(label).strip().lower()) for name, label in labels.items()}
    for name, word in words.items():
        if name not in task.finding_names or word is None:
            raise InputError(
                f"{labels[name]!r} of {name!r} is no answer",
                field="feedback",
                remedy=f"Say {PRESENT}, {ABSENT} or {NOT_SURE}, or 1 or 0, of "
                + ", ".join(task.finding_names),
            )
    found = {n: LABELS[w] for n in task.finding_names if (w := words.get(n)) in LABELS}
    if task.problem == "multiclass":
        return _of_class(task, [name for name, label in found.items() if label])
    if not found:
        raise InputError(
            "A disagreement needs a label",
            field="feedback",
            remedy="Say of at least one finding whether it is present or absent",
        )
    return found


def _of_class(task: Task, present: list[str]) -> dict[str, int]:
    if len(present) != 1:
        raise InputError(
            f"{len(present)} of {len(task.findings)} classes are said to be present",
            field="feedback",
            remedy="Say which one is right",
        )
    return {name: int(name in present) for name in task.finding_names}
