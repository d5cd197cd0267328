"""Change page: a change record as a person reads it, Markdown."""

from collections.abc import Sequence
from typing import Any

from cxr_mm.evaluation.markdown import bullets, plain, table, with_interval
from monitoring.retraining.changes import ChangeRecord

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
        "## How it was judged",
        _protocol(record.protocol),
        "## Evidence",
        _evidence(record.evidence),
        "## What it would mean",
        _impact(record.impact),
        "## What was done with it",
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
    said = table(["data", "champion", "challenger"], rows)
    said += f"\n\nAdditions: {', '.join(added) or 'none'}.\n\n"
    if moved:
        said += table(["parameter", "champion", "challenger"], moved)
    else:
        said += "No parameter changes."
    code = change["code"]
    return f"{said}\n\nCode: version {code['version']}, `{code['digest']}`."


def _reason(reason: dict[str, Any]) -> str:
    if not reason:
        return "No report of monitoring was named: it was asked for by hand."
    heading = f"Monitoring said {reason['status']}: {plain(reason['headline'])}"
    return f"{heading}\n\n{bullets(plain(r['text']) for r in reason['reasons'])}"


def _protocol(protocol: dict[str, Any]) -> str:
    margins = ", ".join(f"{name} {value:g}" for name, value in protocol["margins"].items())
    studies = bullets(f"{plain(what)}: {n}" for what, n in protocol["studies"].items())
    watched = f"Once promoted, it is watched against {plain(protocol['reference'])}."
    return f"{plain(protocol['method'])}\n\nMargins: {margins}.\n\n{studies}\n\n{watched}"


def _evidence(lines: Sequence[dict[str, Any]]) -> str:
    heads = ["sample", "group", "finding", "metric", "studies", "patients", "with it"]
    heads += ["champion", "challenger", "difference", "margin", "p (Holm)", "judgement"]
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
