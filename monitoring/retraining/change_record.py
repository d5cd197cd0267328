"""Change records: what a new version changes, why, how it compares, and its approvals.

`serving/TASK/changes/ID.json` and `ID.md` are written once; each later action is a separate file,
`ID.1.json`, `ID.2.json` and so on. Nothing is rewritten. The parts follow a change control plan in
FDA, Marketing Submission Recommendations for a Predetermined Change Control Plan for Artificial
Intelligence-Enabled Device Software Functions, guidance, December 2024.
"""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json, to_json
from cxr_mm.core.types import Frozen
from cxr_mm.evaluation.report.text import bullets, plain, table, with_interval
from cxr_mm.models.registry import DIGEST_SHOWN, SERVING

CHANGES = "changes"
Outcome = Literal["better", "no worse", "rejected"]
Act = Literal["approved", "rolled back"]


class Model(Frozen):
    """A model that takes part in a comparison."""

    digest: str
    name: str
    folder: str
    """Folder that contains its bundle, relative to the project."""


class ChangeRecord(Frozen):
    """A challenger, its comparison with the champion, and the outcome of the gate."""

    id: str
    task: str
    made_at: AwareDatetime
    synthetic: bool
    champion: Model
    challenger: Model
    experiment: str
    """Folder of the experiment, relative to the project."""
    addition: str
    """Name of the version of additions that the challenger was trained with."""
    change: dict[str, Any]
    """Data, parameters and code before and after."""
    reason: dict[str, Any]
    """The monitoring verdict that led to it, if one was named."""
    protocol: dict[str, Any]
    """Method and margins of the comparison."""
    outcome: Outcome
    reasons: tuple[str, ...]
    """Reasons for the outcome."""
    comparisons: tuple[dict[str, Any], ...]
    """Every figure of the comparison, as of `comparison.Line`."""
    impact: dict[str, Any]
    """Operating points before and after, and predictions that would change."""


class Event(Frozen):
    """An approval or rollback of a change record."""

    record: str
    act: Act
    by: str = Field(min_length=1)
    at: AwareDatetime
    before: str
    """Digest of the model served before; empty if none."""
    after: str
    """Digest of the model to serve; the pointer names the model in service."""


def record_id(made_at: datetime, digest: str) -> str:
    """Time and digest, as in `20261122T060000Z-0123456789ab`."""
    return f"{made_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:DIGEST_SHOWN]}"


def folder_of(task: str, root: Path) -> Path:
    """Folder of the change records of a task."""
    return root / SERVING / task / CHANGES


def write_record(record: ChangeRecord, page: str, root: Path) -> Path:
    """Write a record, once.

    Args:
        page: the record as Markdown for people.
        root: folder of the project.

    Raises:
        StageError: a record of this id exists.
    """
    path = folder_of(record.task, root) / f"{record.id}.json"
    _write_new(path.with_suffix(".md"), page)
    _write_new(path, to_json(record.model_dump(mode="json")))
    return path


def read_record(record: str, root: Path) -> ChangeRecord:
    """Find a record by its id, whatever its task.

    Raises:
        StageError: no such record, or it cannot be read.
    """
    field, remedy = f"--record {record}", f"Look into {SERVING}/TASK/{CHANGES}"
    names = [path.stem for path in (root / SERVING).glob(f"*/{CHANGES}/*.json")]
    if record not in names:
        raise StageError("no such change record", field=field, remedy=remedy)
    (path,) = (root / SERVING).glob(f"*/{CHANGES}/{record}.json")
    try:
        return ChangeRecord.model_validate(read_json(path))
    except (OSError, ValueError, ValidationError) as error:
        raise StageError("not a change record", field=str(path), remedy=remedy) from error


def add_event(folder: Path, event: Event) -> Path:
    """Write an event beside its change record, as a new file."""
    number = len(read_events(folder, event.record)) + 1
    path = folder / f"{event.record}.{number}.json"
    _write_new(path, to_json(event.model_dump(mode="json")))
    return path


def read_events(folder: Path, record: str) -> list[Event]:
    """Events of a record, oldest first."""
    ordered = sorted(folder.glob(f"{record}.*.json"), key=lambda path: int(path.stem.split(".")[1]))
    return [Event.model_validate(read_json(path)) for path in ordered]


def _write_new(path: Path, text: str) -> None:
    """Write a new file, all or nothing; an existing one is never replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        aside = Path(folder) / path.name
        aside.write_text(text, encoding="utf-8")
        try:
            path.hardlink_to(aside)
        except FileExistsError as error:
            raise StageError("exists already, and is never rewritten", field=str(path)) from error


STATES = {
    "no worse": "no worse",
    "worse": "**worse**",
    "not shown": "**may be worse by more than the margin**",
    "too few": "too few to judge",
}


def change_page(record: ChangeRecord) -> str:
    """The page; every figure of the record is on it."""
    made_up = "Made-up studies, no patients.\n\n" if record.synthetic else ""
    parts = [
        f"# Change record {record.id}",
        f"{made_up}Outcome of the gate: **{record.outcome}**.",
        bullets(map(plain, record.reasons)),
        f"Champion `{record.champion.digest}` ({plain(record.champion.name)}), "
        f"challenger `{record.challenger.digest}` ({plain(record.challenger.name)}), task "
        f"{record.task}, {record.made_at:%Y-%m-%d %H:%M} UTC.",
        "## What changes",
        _change(record.change),
        "## Why",
        _reason(record.reason),
        "## How it was compared",
        _protocol(record.protocol),
        "## Comparisons",
        _comparisons(record.comparisons),
        "## Impact",
        _impact(record.impact),
        "## Approvals",
        f"Approvals and rollbacks are the files `{record.id}.1.json`, `{record.id}.2.json` and so "
        f"on beside this one. Approve with `python -m monitoring promote --record {record.id} "
        f"--by NAME`, take back with `python -m monitoring rollback --task {record.task} --by "
        "NAME`.",
        "Decision support for research only: not a medical device.",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _change(change: dict[str, Any]) -> str:
    data, parameters = change["data"], change["parameters"]
    names = list(data["champion"])
    rows = [(plain(n), str(data["champion"][n]), str(data["challenger"][n])) for n in names]
    added = [f"{name} (`{digest[:12]}`)" for name, digest in data["additions"].items()]
    moved = [(p["name"], str(p["champion"]), str(p["challenger"])) for p in parameters]
    result = table(["data", "champion", "challenger"], rows)
    result += f"\n\nAdditions: {', '.join(added) or 'none'}.\n\n"
    if moved:
        result += table(["parameter", "champion", "challenger"], moved)
    else:
        result += "No parameter changes."
    code = change["code"]
    return f"{result}\n\nCode: version {code['version']}, `{code['digest']}`."


def _reason(reason: dict[str, Any]) -> str:
    if not reason:
        return "No monitoring report was named: the retraining was started by hand."
    heading = f"Monitoring reported {reason['status']}: {plain(reason['headline'])}"
    return f"{heading}\n\n{bullets(plain(r['text']) for r in reason['reasons'])}"


def _protocol(protocol: dict[str, Any]) -> str:
    margins = ", ".join(f"{name} {value:g}" for name, value in protocol["margins"].items())
    studies = bullets(f"{plain(what)}: {n}" for what, n in protocol["studies"].items())
    watched = f"Once promoted, it is watched against {plain(protocol['reference'])}."
    return f"{plain(protocol['method'])}\n\nMargins: {margins}.\n\n{studies}\n\n{watched}"


def _comparisons(lines: Sequence[dict[str, Any]]) -> str:
    heads = ["sample", "group", "finding", "metric", "studies", "patients", "with it"]
    heads += ["champion", "challenger", "difference", "margin", "p (Holm)", "result"]
    rows = []
    for line in lines:
        counts = [str(line[name]) for name in ("n", "patients", "positives")]
        figures = [
            with_interval(line[name], ".3f") if line[name] else ""
            for name in ("champion", "challenger", "difference")
        ]
        p = "" if line["p_holm"] is None else f"{line['p_holm']:.3f}"
        what = [plain(line[name]) for name in ("sample", "group", "finding", "metric")]
        margin = f"{line['margin']:g}"
        rows.append((*what, *counts, *figures, margin, p, STATES[line["state"]]))
    return table(heads, rows)


def _impact(impact: dict[str, Any]) -> str:
    rows = []
    for name, points in impact["operating_points"].items():
        turned = impact["turned"][name]
        cuts = [f"{p['threshold']:.3f}" if p else "likeliest" for p in points.values()]
        turns = [str(turned[way]) for way in ("to_positive", "to_negative")]
        rows.append(
            (plain(name), *cuts, str(turned["n"]), *turns, f"{turned['mean_absolute_change']:.3f}")
        )
    heads = ["finding", "threshold, champion", "threshold, challenger", "newest studies"]
    heads += ["turn positive", "turn negative", "mean change of probability"]
    return table(heads, rows)
