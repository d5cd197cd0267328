"""Gallery page: the chosen cases as one self-contained HTML page; draws only."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cxr_mm.contracts.explanation import Explanation
from cxr_mm.contracts.prediction import NOTICE, FindingPrediction
from cxr_mm.contracts.task import Task
from cxr_mm.explain.bars import CSS, NAMES, probability_bar, share_bars
from cxr_mm.explain.cases import Case

SYNTHETIC = "SYNTHETIC: made-up data; nothing here is a real patient."
STYLE = """
:root{color-scheme:light}
body{font:16px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#1b1f24;
  background:#fff;max-width:1180px;margin:0 auto;padding:16px}
h1{font-size:1.5rem;margin:.2em 0}
h2{font-size:1.15rem;margin:1.4em 0 .4em}
.notice{border-left:4px solid #c65d00;background:#f4f5f7;padding:7px 12px;margin:0 0 6px;
  font-weight:550}
.synthetic{border-left-color:#7b3fa0}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:20px}
article{border:1px solid #d9dde3;border-radius:8px;padding:12px}
article h3{font-size:1rem;margin:0 0 8px;overflow-wrap:anywhere}
article.wrong{border-color:#c65d00;border-width:2px}
img{max-width:100%;height:auto;display:block;margin:0 auto 10px;border-radius:4px}
table.figures{border-collapse:collapse;font-variant-numeric:tabular-nums}
table.figures th,table.figures td{text-align:left;padding:3px 14px 3px 0}
.quiet{color:#4a5260;font-size:.92em}
"""
HOW = (
    "Colour shows the regions that raise the logit of the finding (Grad-CAM), scaled to the "
    "highest value in each film (1). A bright region is where the model looked, not proof of "
    "disease. Probabilities are those given while the study was held out."
)
FOLDED = (
    "This task is cross-validated: shares and maps are those of the bundle, which has since "
    "learnt from studies shown here; the probability and the kind of each case are held out."
)

NAMED = {
    "energy": "Energy inside the true area",
    "pointing": "Highest point inside the true area",
    "iou": "Overlap at the true area's own size",
    "deletion": "Deletion: faster than random order by (logits)",
}
CHANCE = {"energy": "chance_energy", "pointing": "chance_energy", "iou": "chance_iou"}


def page(task: Task, digest: str, cards: Sequence[str], faithfulness: Mapping[str, Any]) -> str:
    """The whole page."""
    mark = f'<div class="notice synthetic">{SYNTHETIC}</div>' if task.synthetic else ""
    folded = f'<p class="quiet">{FOLDED}</p>' if task.split.protocol == "folds" else ""
    title = f"Explanations: {escape(task.title)}"
    body = "".join(cards) or "<p>There is no held-out study to show.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}{CSS}</style></head><body>"
        f'<h1>{title}</h1><div class="notice">{escape(NOTICE)}</div>{mark}'
        f'<p class="quiet">Bundle digest {escape(digest[:12])}</p>'
        f"<h2>Can it be believed</h2>{_figures(faithfulness)}"
        f'<h2>Right and wrong, in turn</h2><p class="quiet">{HOW}</p>{folded}'
        f'<div class="cases">{body}</div></body></html>'
    )


def card(task: Task, case: Case, explanation: Explanation, image: str | None) -> str:
    """One case: film with map, probability, shares.

    Args:
        task: for the finding's title.
        case: what is shown.
        explanation: modality shares of the case's finding.
        image: `data:` address of the drawn film; None without one.
    """
    title = next(f.title for f in task.findings if f.name == case.finding)
    said = FindingPrediction(
        finding=case.finding,
        title=title,
        probability=case.probability,
        threshold=case.threshold,
        positive=case.kind.endswith("positive"),
    )
    alt = escape(f"{case.kind}: the film with the regions that speak for {title}")
    film = f'<img src="{image}" alt="{alt}">' if image else '<p class="quiet">No film.</p>'
    used = ", ".join(NAMES[m] for m in explanation.shares)
    wrong = ' class="wrong"' if case.kind.startswith("false") else ""
    return (
        f"<article{wrong}><h3>{escape(case.kind.capitalize())} · {escape(case.study_id)}</h3>{film}"
        f'{probability_bar(said)}<p class="quiet">Inputs: {escape(used)}</p>'
        f"{share_bars(explanation)}</article>"
    )


def _figures(faithfulness: Mapping[str, Any]) -> str:
    """Table of what was measured, each with its interval and with what chance gives."""
    rows = []
    for finding, figures in (faithfulness.get("localisation") or {}).items():
        for name, chance in CHANCE.items():
            expected = f"{figures[chance]['value']:.2f}"
            what = f"{NAMED[name]}, {finding}"
            rows.append(_row(what, _interval(figures[name]), expected, figures["n"]))
    if deletion := faithfulness.get("deletion"):
        rows.append(_row(NAMED["deletion"], _interval(deletion), "0.00", deletion["n"]))
    if not rows:
        return '<p class="quiet">Nothing could be measured: there are no films.</p>'
    head = "<tr><th>Grad-CAM</th><th>mean (95 % interval)</th><th>chance</th><th>studies</th></tr>"
    return f'<table class="figures">{head}{"".join(rows)}</table>'


def _row(what: str, *cells: object) -> str:
    return f"<tr><th>{escape(what)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _interval(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"
