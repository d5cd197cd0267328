"""Report page: it loads nothing, and says what the card says, to the digit and to everyone."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from cxr_mm.evaluation.flags import Flag
from cxr_mm.evaluation.report.model_card import model_card
from cxr_mm.evaluation.report.page import report_page
from cxr_mm.evaluation.report.plots import curve_tables, draw_plots, draw_subgroups

HOSTILE = "A <script>alert(1)</script> ![x](http://evil.example/p.png) [y](javascript:z) 'q' \"r\""


class Parsed(HTMLParser):
    """Tags with their attributes, the cells of tables, and that every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "hr"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def written(results_of, table_of):
    """Results of two findings, their card, and how to write the page."""
    results = results_of(problem="multilabel", kind="synthetic")
    tables = curve_tables(results.task, table_of(results.task))

    def draw(task):
        drawings = draw_plots(task, results.metrics, tables)
        return {**drawings, "subgroups": draw_subgroups(task, results.subgroups)}

    first = draw(results.task)

    def write(changed=results, again=False):
        card = model_card(changed, [Flag("data", HOSTILE)])
        return report_page(changed, card, draw(changed.task) if again else first), card

    return results, write


@pytest.fixture(scope="module")
def page(written):
    return written[1]()


def test_it_loads_nothing_and_is_the_same_each_time(written, page):
    text, _ = page
    parsed = Parsed(text)
    assert parsed.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in parsed.tags}
    named = [a[k] for _, a in parsed.tags for k in ("src", "href", "xlink:href") if k in a]
    assert {n for n in named if n.startswith(("http", "//"))} == set()
    assert not re.findall(r"url\((?!#)|@import", text)
    assert written[1](again=True)[0] == text


def test_it_says_what_the_card_says(written, page):
    text, card = page
    results, _ = written
    figure = results.metrics["subsets"]["available"]["macro"]["auc"]
    low, high = figure["ci95"]
    assert f"AUC {figure['value']:.3f} [{low:.3f}, {high:.3f}]</strong> (mean over" in text
    assert text.index("</strong>") < text.index("<h2")
    assert re.findall(r"<h2 [^>]*>(.*)</h2>", text)[:-1] == re.findall("^## (.*)", card, re.M)
    rows = [line for line in card.splitlines() if line.startswith("| ") and "---" not in line]
    cells = [c.strip().replace("`", "") for row in rows for c in re.split(r"(?<!\\)\|", row)[1:-1]]
    shown = [cell.strip() for cell in Parsed(text).cells]
    assert [c for c in shown if c] == [c.replace("\\", "") for c in cells if c]
    assert ("SYNTHETIC DATA:" in text, "Decision support for research only" in text) == (True, True)


def test_a_screen_reader_can_name_all_of_it(page):
    parsed = Parsed(page[0])
    heads = [a for tag, a in parsed.tags if tag == "th"]
    assert {a.get("scope") for a in heads} == {"col", "row"}
    drawn = [a for tag, a in parsed.tags if tag == "svg"]
    assert len(drawn) == 6
    assert all(a["role"] == "img" and "Effusion: " in a["aria-label"] for a in drawn)
    ids = [a["id"] for _, a in parsed.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for _, a in parsed.tags if a.get("href", "").startswith("#")} <= set(ids)


def test_long_tables_fold_and_are_printed(page):
    text, _ = page
    for rows, table in re.findall(r"<summary>(\d+) rows.*?<tbody>(.*?)</tbody>", text, re.DOTALL):
        assert table.count("<tr>") == int(rows) > 12
    assert text.count("<details>") >= 2
    assert "details::details-content{display:block;content-visibility:visible}" in text


def test_words_of_a_task_become_no_markup_and_the_gallery_is_named(written, page):
    results, write = written
    task = results.task.model_copy(update={"title": HOSTILE, "caveats": (HOSTILE,)})
    explained = {"methods": {}, "digest": results.index.digest}
    text, _ = write(replace(results, task=task, faithfulness=explained), again=True)
    assert not {"script", "img"} & {tag for tag, _ in Parsed(text).tags}
    assert not re.findall(r'href="javascript|href="http', text)
    assert text.count("![x](http://evil.example/p.png)") >= 4
    for each, is_to_come in ((page[0], True), (text, False)):
        assert 'href="explain/index.html"' in each
        assert ("once the stage explain has run" in each) == is_to_come
