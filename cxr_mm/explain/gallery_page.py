"""Gallery page: the chosen cases as one self-contained HTML page; draws only."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cxr_mm.contracts.explanation import Explanation
from cxr_mm.contracts.prediction import NOTICE, FindingPrediction
from cxr_mm.contracts.task import Task
from cxr_mm.explain.bars import CSS, NAMES, probability_bar, share_bars
from cxr_mm.explain.cases import Case
from cxr_mm.explain.methods import METHODS, Method
from cxr_mm.explain.web import STYLE, SYNTHETIC, whole_page

HOW = (
    "Colour shows the regions that raise the logit of the finding (Grad-CAM), scaled to the "
    "highest value in each film (1). A bright region is where the model looked, not proof of "
    "disease. Probabilities are those given while the study was held out."
)
FOLDED = (
    "This task is cross-validated: shares and maps are those of the bundle, which has since "
    "learnt from studies shown here; the probability and the kind of each case are held out."
)

FIGURES = {
    "gain": "beats random order by (logits)",
    "sparsity": "sparsity",
    "noise": "rank correlation under noise",
    "seeds": "between seeds",
}
AREAS = {"energy": "energy inside", "pointing": "highest point inside", "iou": "overlap"}


def gallery_page(
    task: Task,
    digest: str,
    cards: Sequence[str],
    faithfulness: Mapping[str, Any],
    moved: Mapping[str, Any],
) -> str:
    """The whole page.

    Args:
        task: for its title.
        digest: of the bundle.
        cards: HTML of each case.
        faithfulness: what faithfulness.json says.
        moved: as `importance` gives it.
    """
    mark = f'<div class="notice synthetic">{SYNTHETIC}</div>' if task.synthetic else ""
    folded = f'<p class="quiet">{FOLDED}</p>' if task.split.protocol == "folds" else ""
    body = "".join(cards) or "<p>There is no held-out study to show.</p>"
    return whole_page(
        f"Explanations: {task.title}",
        STYLE + CSS,
        f'<div class="notice">{escape(NOTICE)}</div>{mark}'
        f'<p class="quiet">Bundle digest {escape(digest[:12])}</p>'
        f"<h2>Can it be believed</h2>{_methods(faithfulness['methods'])}"
        f"{_areas(faithfulness['localisation'])}"
        f"<h2>What moves it</h2>{_moved(task, moved)}"
        f'<h2>Right and wrong, in turn</h2><p class="quiet">{HOW}</p>{folded}'
        f'<div class="cases">{body}</div>',
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


def _methods(measured: Mapping[str, Any]) -> str:
    """A row for each method, with intervals, and whether it may be believed."""
    if not measured:
        return '<p class="quiet">Nothing could be measured: there is no held-out study.</p>'
    rows = [_method(METHODS[name], figures) for name, figures in measured.items()]
    columns = ["method", "studies", *FIGURES.values(), "weights shuffled", "may be believed"]
    head = "".join(f"<th>{column}</th>" for column in columns)
    return f'<div class="wide"><table class="figures"><tr>{head}</tr>{"".join(rows)}</table></div>'


def _method(method: Method, figures: Mapping[str, Any]) -> str:
    depths = figures["randomised"].values()
    shuffled = f"{list(depths)[-1]['value']:.2f}" if depths else "flat"
    believed = "yes"
    if not figures["better_than_chance"]:
        believed = "no: not better than chance"
    if not figures["depends_on_weights"]:
        believed = "no: hardly depends on the weights"
    cells = [figures["n"], *(_interval(figures.get(name)) for name in FIGURES), shuffled, believed]
    return _row(f"{NAMES[method.modality]}: {method.title}", *cells)


def _areas(localisation: Mapping[str, Any] | None) -> str:
    """How much of each image method falls on the true areas, with what chance gives."""
    rows = [
        _row(
            f"{finding}: {METHODS[name].title}",
            figures["n"],
            *(_interval(figures[area]) for area in AREAS),
            f"{figures['chance_energy']['value']:.2f}",
        )
        for finding, methods in (localisation or {}).items()
        for name, figures in methods.items()
    ]
    if not rows:
        return ""
    why = "How much of each map lies on what is really there, as the source of the films knows it"
    head = "".join(f"<th>{c}</th>" for c in ("true area", "studies", *AREAS.values(), "by chance"))
    return (
        f'<h3>In the true area</h3><p class="quiet">{why}.</p>'
        f'<div class="wide"><table class="figures"><tr>{head}</tr>{"".join(rows)}</table></div>'
    )


def _moved(task: Task, moved: Mapping[str, Any]) -> str:
    """Mean absolute share and SHAP value, largest first."""
    titles = {feature.name: feature.title for feature in task.clinical} | dict(NAMES)
    rows = [
        _row(f"{finding}: {titles.get(name, name)}", figures["n"], _interval(figures))
        for finding, kinds in moved.items()
        for found in kinds.values()
        for name, figures in sorted(found.items(), key=lambda item: -item[1]["value"])
    ]
    head = "<tr><th>input</th><th>studies</th><th>moves the logit by, on average</th></tr>"
    return f'<table class="figures">{head}{"".join(rows)}</table>'


def _row(what: str, *cells: object) -> str:
    return f"<tr><th>{escape(what)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _interval(figure: Mapping[str, float] | None) -> str:
    if not figure:
        return ""
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"
