"""The README's table of figures: good and bad, of what the models were made for and of the rest."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.harness.parts import Row
from benchmarks.harness.report import figure
from cxr_mm.core.files import write_text

README = Path(__file__).parents[2] / "README.md"
COMMAND = "python -m benchmarks --readme"
BLOCK = re.compile(rf"(?<=<!-- written by {COMMAND} -->\n).*?(?=<!-- end -->)", re.DOTALL)
TABLES = ("cross-dataset", "tasks: every figure")
METRICS = ("auc", "sensitivity", "specificity")
SHOWN = {
    ("pneumonia", "children, official test: pneumonia, clinical; held out"): "children of its own "
    "hospital: the official test, seen before its operating point was chosen",
    ("pneumonia", "NIH: opacity against normal, radiologists; bundle"): "adults elsewhere: opacity "
    "against normal, by radiologists",
    ("pneumonia", "NIH: pneumonia against no finding, reports; bundle"): "adults elsewhere: labels "
    "mined from reports",
    ("pneumonia3", "image: macro"): "normal, bacterial, viral: mean of the three, official test",
    ("effusion", "NIH: effusion against no finding, reports; held out"): "unseen patients",
    ("nih_opacity", "NIH: opacity against normal, radiologists; held out"): "unseen patients, "
    "against normal",
    ("nih_opacity", "children, official test: pneumonia, clinical; bundle"): "children elsewhere",
    ("covid", "COVID-19 collection: COVID-19 against others, source; held out"): "unseen patients "
    "of a collection in which where an image came from tells much",
    ("covid", "NIH: no COVID-19, taken before it; bundle"): "adults elsewhere, none of whom has it",
    ("icu_early", "available: icu"): "unseen patients, images before intensive care",
    ("intubation_early", "available: intubation"): "unseen patients, images before intubation",
}
"""Task and row of results.json → the question, in the order of the table."""


def write_readme(rows: Sequence[Row]) -> None:
    """Write the table into the README."""
    text = README.read_text(encoding="utf-8")
    write_text(README, BLOCK.sub(lambda _: f"\n{table(rows)}\n", text))


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of `SHOWN`, AUC first, each figure with its interval."""
    heading = [
        "| task | asked about | AUC | sensitivity | specificity | studies |",
        "|---" * 6 + "|",
    ]
    return "\n".join([*heading, *_lines(rows)]) + "\n"


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    found = {(row.task, row.row, row.metric): row for row in rows if row.table in TABLES}
    for (task, name), question in SHOWN.items():
        own = [found.get((task, name, metric)) for metric in METRICS]
        cells = ["" if row is None else figure(row) for row in own]
        number = next(row.n for row in own if row is not None)
        yield f"| `{task}` | {question} | {' | '.join(cells)} | {number} |"
