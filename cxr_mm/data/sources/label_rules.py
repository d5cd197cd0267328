"""Label rules: the raw labels of a source → 1, 0 or missing, as findings say."""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cxr_mm.core.fingerprints import WHOLE_NUMBER
from cxr_mm.core.task import ANY_OTHER, Finding, Task
from cxr_mm.data.manifest import finding_column
from cxr_mm.data.tables import is_missing, missing_column

LIST = re.compile(r"[|,;]")
DECIMAL = re.compile(r"[+-]?\d*[.,]\d+")
FRACTION = re.compile(r"0?[.,]\d+")
BOOLEANS = {"1": ("true", "yes", "y", "wahr", "ja"), "0": ("false", "no", "n", "falsch", "nein")}
"""Words read as 1 and 0 in any case, where the task's labels are 1 and 0."""


def labels_of(task: Task, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels (1, 0 or NaN) by finding, and where a given label means neither yes nor no.

    Raises:
        ManifestError: a finding has no column.
    """
    labels, unclear = {}, {}
    for finding in task.findings:
        column = finding_column(finding.name)
        labels[column], unclear[column] = _labels(finding, frame)
    table = pd.DataFrame(labels)
    if task.problem == "multiclass":
        # Exactly one class is present, so a yes to one is a no to the others.
        table = table.where(table.notna() | table.ne(1).all(axis=1).to_numpy()[:, None], 0.0)
    return table, pd.DataFrame(unclear)


def _labels(finding: Finding, frame: pd.DataFrame) -> tuple["pd.Series[float]", "pd.Series[bool]"]:
    finding = as_written(finding, frame)
    spelt = _spellings(finding)
    names = [_label_names(cell, finding, spelt) for cell in frame[finding.raw_column]]
    labels = pd.Series([_label(n, finding) for n in names], index=frame.index, dtype="float64")
    given = pd.Series([bool(n) for n in names], index=frame.index, dtype=bool)
    return labels, labels.isna() & given


def as_written(finding: Finding, frame: pd.DataFrame) -> Finding:
    """The finding by the source's raw column, or by one named after it with 1 and 0."""
    if finding.raw_column in frame.columns:
        return finding
    if finding.name not in frame.columns:
        raise missing_column("", [finding.raw_column], frame.columns)
    return Finding(name=finding.name, title=finding.title)


def _spellings(finding: Finding) -> dict[str, str]:
    """Spelling → label of the task: as it is, in lower case, and common words for 1 and 0."""
    known = (*finding.positive, *finding.negative, *finding.unlabelled)
    words = {word: label for label in BOOLEANS if label in known for word in BOOLEANS[label]}
    return words | {label.casefold(): label for label in known} | {label: label for label in known}


def _label_names(cell: Any, finding: Finding, spelt: Mapping[str, str]) -> set[str]:
    """The informative labels of a cell: the whole of it, or a list separated by `|`, `,` or `;`."""
    if pd.isna(cell) or is_missing(str(cell)):
        return set()
    text = str(cell).strip()
    whole = text in spelt or text.casefold() in spelt or DECIMAL.fullmatch(text)
    parts = [text] if whole else [part.strip() for part in LIST.split(text)]
    names = {_label_name(part, spelt) for part in parts if not is_missing(part)}
    return names - set(finding.unlabelled)


def _label_name(text: str, spelt: Mapping[str, str]) -> str:
    plain = WHOLE_NUMBER.sub(r"\1", text)
    return spelt.get(text) or spelt.get(plain.casefold(), plain)


def _label(names: set[str], finding: Finding) -> float:
    if names & set(finding.positive):
        return 1.0
    if names & set(finding.negative):
        return 0.0
    # A probability is no label, not even any other one.
    others = any(not FRACTION.fullmatch(name) for name in names)
    return 0.0 if others and ANY_OTHER in finding.negative else float("nan")
