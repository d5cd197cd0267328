"""Show: an answer as HTML; draws only, and escapes everything that came from outside."""

from collections.abc import Sequence
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from app.service import InferenceService, StudySession
from app.ui.queues import READING
from cxr_mm.core.prediction import NOTICE, SYNTHETIC, Prediction, Reason
from cxr_mm.core.task import Task
from cxr_mm.data.notes import MASK
from cxr_mm.explain.html import NAMES, REASONS, probability_bar, share_bars
from cxr_mm.models.bundle import Bundle

EMPTY = '<p class="quiet">The answer appears here. Any of the inputs may be left out.</p>'


def notices(task: Task) -> str:
    """What stays in sight however far the page is scrolled."""
    mark = f"<div><strong>{SYNTHETIC}</strong></div>" if task.synthetic else ""
    return f'<div class="notice" role="note"><div>{escape(NOTICE)}</div>{mark}</div>'


def header(task: Task, name: str, digest: str, others: Sequence[tuple[str, str]] = ()) -> str:
    """The question, which model answers it, and links to other pages (title, address)."""
    links = "".join(f'<li><a href="{escape(at)}">{escape(title)}</a></li>' for title, at in others)
    nav = f'<nav aria-label="Other pages"><ul>{links}</ul></nav>' if links else ""
    return (
        f"{nav}<h1>{escape(task.title)}</h1>"
        f'<p class="quiet">Model {escape(name)} · digest <code>{escape(digest[:12])}</code></p>'
    )


def caveats(task: Task) -> str:
    """What to know before believing the model."""
    items = "".join(f"<li>{escape(c)}</li>" for c in task.caveats)
    return f"<ul>{items}</ul><p>{escape(task.citation)}</p><p>{escape(task.licence)}</p>"


def answer(bundle: Bundle, session: StudySession) -> str:
    """Warnings first, then each finding with its operating point, then what was used."""
    result, point = session.answer.prediction, session.subject.bundle.operating_point
    findings = "".join(
        probability_bar(f, point(f.finding, result.modalities, session.reason))
        for f in result.findings
    )
    return (
        warnings(result, session.log_trouble)
        + findings
        + gate_warning(result)
        + used(bundle.task, result)
    )


def warnings(prediction: Prediction, log_trouble: str) -> str:
    """What a person should know before the numbers."""
    lines = [*prediction.warnings]
    if log_trouble:
        lines.append(log_trouble)
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        f'<div class="warn" role="alert"><strong>Before you read on</strong><ul>{items}</ul></div>'
    )


def gate_warning(prediction: Prediction) -> str:
    """What "uncertain" means, where it is prediction."""
    uncertain = [f.title for f in prediction.findings if f.certainty == "uncertain"]
    if not uncertain or prediction.coverage is None:
        return ""
    left = f"{', '.join(uncertain)}: " if prediction.classes else ""
    return (
        f'<p class="quiet">{escape(left)}Uncertain means that more than one answer is possible: '
        f"answers are ruled out only so far that the true one stays in "
        f"{100 * prediction.coverage:.0f} of 100 such studies.</p>"
    )


def used(task: Task, prediction: Prediction) -> str:
    """Which of the task's inputs the model used."""
    marks = [
        f'<span class="chip {"on" if m in prediction.modalities else "off"}">{escape(NAMES[m])}: '
        f"{'used' if m in prediction.modalities else 'not given'}</span>"
        for m in task.modalities
    ]
    return f'<div class="chips">{"".join(marks)}</div>'


def shares(session: StudySession, finding: str) -> str:
    """Which input moved the logit of the chosen finding."""
    return share_bars(session.explanations[finding])


def part(title: str, inside: str, below: str = "") -> str:
    """A part of the explanation under its own heading, small print below; empty where there is
    none."""
    if not inside:
        return ""
    small = f'<p class="quiet">{escape(below)}</p>' if below else ""
    return f'<h3 class="step">{escape(title)}</h3>{inside}{small}'


def fault(message: str) -> str:
    """A message beside the field it is about; empty takes it away."""
    return f'<div class="fault" role="alert">{escape(message)}</div>' if message else ""


def masked_note(masked: str) -> str:
    """The note as the model reads it, what is hidden marked."""
    marked = escape(masked).replace(escape(MASK), f"<mark>{escape(MASK)}</mark>")
    return f'<div class="quiet">The model reads: {marked}</div>'


def build(service: InferenceService, state: Any, answer: Any) -> Any:
    """Place the choice of operating point, which needs no new prediction.

    Args:
        service: whose model it is.
        state: holds the answer on show.
        answer: where it is shown.
    """
    own = service.bundle.decision
    choices = [(f"{name} (usual)" if r == own else name, r) for r, name in REASONS.items()]
    reason = gr.Dropdown(
        choices,
        value=own,
        label="Operating point",
        info="From which probability on a finding is called positive.",
        filterable=False,
        visible=service.task.problem != "multiclass",
    )
    given = {"inputs": [state, reason], "outputs": [state, answer], **READING}
    reason.input(partial(on_reason, service), show_progress="hidden", **given)
    return reason


def on_reason(
    service: InferenceService, session: StudySession | None, reason: Reason
) -> tuple[Any, Any]:
    """Another operating point was chosen."""
    if session is None:
        return gr.skip(), gr.skip()
    moved = service.at(session, reason)
    return moved, answer(service.bundle, moved)
