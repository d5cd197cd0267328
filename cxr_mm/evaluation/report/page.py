"""HTML report: the model card with the plots, on one page that loads nothing and prints well.

Its words and tables are those of the card, so that the two cannot differ.
"""

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import matplotlib as mpl
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from cxr_mm.core.prediction import NOTICE
from cxr_mm.core.templates import render
from cxr_mm.core.types import AVAILABLE
from cxr_mm.evaluation.flags import EvaluationResults
from cxr_mm.evaluation.report.text import headline, with_interval

LONG = 12
"""Rows of a table that is folded."""
PLOTS = {
    "roc": ("Performance", "ROC curves", "auc"),
    "roc_subsets": ("Performance", "ROC curves by what the model was shown", "auc"),
    "precision_recall": ("Performance", "Precision against recall", "average_precision"),
    "confusion": ("Operating point", "Truth against answer", "accuracy"),
    "reliability": ("Calibration", "Observed share against predicted probability", "ece"),
    "subgroups": ("Subgroups", "Figures of each group", "auc"),
}
"""Section of the card, title, and the figure that the text in place of the plot gives."""
METRIC_NAMES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "ece": "ECE",
}


@dataclass(frozen=True)
class Section:
    """A section of the card.

    Args:
        title: in words; empty of what is before the first heading.
        body: as HTML.
    """

    title: str
    body: Markup

    @property
    def anchor(self) -> str:
        """Its name in an address."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def report_page(results: EvaluationResults, card: str, drawings: Mapping[str, Figure]) -> str:
    """Write the page.

    Args:
        results: what was measured.
        card: as `model_card` gives it.
        drawings: name of the plot → drawing, as `draw_plots` gives them, and `subgroups`.
    """
    summary, *sections = sections_of(card)
    plots: dict[str, list[tuple[str, Markup]]] = {}
    for name, (section, title, metric) in PLOTS.items():
        drawn = svg(name, drawings[name], _in_words(results, title, metric))
        plots.setdefault(section, []).append((title, drawn))
    return render(
        "report.html",
        title=results.task.title,
        task=results.task,
        notice=NOTICE,
        headline=headline(results.metrics["subsets"][AVAILABLE]),
        metrics=results.metrics,
        interval=with_interval,
        summary=summary,
        sections=sections,
        plots=plots,
        explained=bool(results.faithfulness),
    )


def sections_of(card: str) -> list[Section]:
    """Sections of a card in Markdown; the first, without a title, is what is before them.

    Its title and its notices are left out. No picture and no link is made of the task's words.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.disable(["image", "link", "autolink"])
    found: list[tuple[str, list[Token]]] = [("", [])]
    tokens = iter(reader.parse(card))
    for token in tokens:
        if token.type == "heading_open" and token.tag in ("h1", "h2"):
            title = _words(next(tokens))
            next(tokens)
            if token.tag == "h2":
                found.append((title, []))
        elif token.type == "blockquote_open":
            _until("blockquote_close", token.level, tokens)
        elif token.type == "table_open":
            rows = _until("table_close", token.level, tokens)
            found[-1][1].extend(_table([token, *rows]))
        else:
            found[-1][1].append(token)
    render_tokens = reader.renderer.render
    return [Section(title, Markup(render_tokens(own, reader.options, {}))) for title, own in found]


def _until(kind: str, level: int, tokens: Iterator[Token]) -> list[Token]:
    """Take the tokens up to the one that closes."""
    found = []
    for token in tokens:
        found.append(token)
        if token.type == kind and token.level == level:
            break
    return found


def _table(tokens: list[Token]) -> list[Token]:
    """A table with headers that a screen reader can name, in a box that scrolls or, long, folds."""
    heads: list[str] = []
    rows = body = 0
    for at, token in enumerate(tokens):
        if token.type == "th_open":
            heads.append(_words(tokens[at + 1]))
            _become(tokens, at, "col" if heads[-1] else None)
        elif token.type == "tbody_open":
            body = at
        elif token.type == "td_open" and tokens[at - 1].type == "tr_open":
            rows += 1
            _become(tokens, at, "row")
    name = escape(", ".join(filter(None, heads)) or "Summary")
    if not any(heads):
        tokens = [tokens[0], *tokens[body:]]
    start = f'<div class="wide" role="group" tabindex="0" aria-label="{name}">\n'
    end = "</div>\n"
    if rows > LONG:
        start = f"<details><summary>{rows} rows: {name}</summary>\n{start}"
        end += "</details>\n"
    return [_raw(start), *tokens, _raw(end)]


def _become(tokens: list[Token], at: int, scope: str | None) -> None:
    """Make a cell, of three tokens, the header of its column or row, or of nothing."""
    for token in (tokens[at], tokens[at + 2]):
        token.tag = "th" if scope else "td"
    if scope:
        tokens[at].attrSet("scope", scope)


def _words(inline: Token) -> str:
    return "".join(token.content for token in inline.children or [])


def _raw(html: str) -> Token:
    return Token("html_block", "", 0, content=html)


def svg(name: str, figure: Figure, words: str) -> Markup:
    """A drawing to stand inside a page, the same to the byte each time; its text stays text.

    Args:
        name: of the plot, with which its ids begin, so that those of two never collide.
        figure: to draw.
        words: what stands for it where it cannot be seen.
    """
    with io.StringIO() as stream, mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        text = stream.getvalue()
    text = text[text.index("<svg") :].replace(
        "<svg ", f'<svg role="img" aria-label="{escape(words)}" ', 1
    )
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return Markup(re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text))


def _in_words(results: EvaluationResults, title: str, metric: str) -> str:
    """`ROC curves. Effusion: AUC 0.913 [0.880, 0.941]; …`."""
    figures = (
        f"{results.title(finding)}: {METRIC_NAMES[metric]} {with_interval(found[metric])}"
        for finding, found in results.figures(AVAILABLE).items()
    )
    return f"{title}. {'; '.join(figures)}. The tables of this section have the figures"
