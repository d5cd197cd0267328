"""Card, the data: where it is from, what was left out, how it was divided, what parts share."""

from typing import Any

from cxr_mm.evaluation.evidence import Evidence
from cxr_mm.evaluation.markdown import bullets, plain, table

PROTOCOLS = {
    "patient": "at random by patient group, into train, validation and test",
    "official": "as the source does into train and test, validation carved out of train by patient"
    " group",
    "folds": "for cross-validation by patient group: every study is test once",
}
MODALITY_TITLES = {"image": "radiograph", "tabular": "clinical features", "note": "clinical note"}


def data_section(evidence: Evidence) -> str:
    """Source, counts, what was dropped, split and leakage audit."""
    task, ingest = evidence.task, evidence.ingest
    parts = [
        "## Data",
        f"Source: {task.source.kind}{_home(evidence)}. Licence: {plain(task.licence)}.",
        f"Cite: {plain(task.citation)}",
        _counts(evidence),
        _dropped(ingest),
        "### Split and leakage",
        f"Divided {PROTOCOLS[task.split.protocol]}.",
        _parts(evidence),
        _audit(evidence.audit),
    ]
    return "\n\n".join(part for part in parts if part)


def _home(evidence: Evidence) -> str:
    home = evidence.task.source.homepage
    return f" ({home})" if home else ""


def _counts(evidence: Evidence) -> str:
    ingest = evidence.ingest
    rows: list[tuple[str, object]] = [
        ("studies in the source", ingest["studies_in_source"]),
        ("studies used", ingest["studies"]),
        ("patients", ingest["patients"]),
    ]
    rows += [
        (f"studies with {MODALITY_TITLES[m]}", ingest["modalities"][m])
        for m in evidence.task.modalities
    ]
    for name, found in ingest["findings"].items():
        title = plain(evidence.title(name))
        rows.append((f"{title}: present", found["positive"]))
        rows.append((f"{title}: absent", found["negative"]))
        if found["missing"]:
            rows.append((f"{title}: not labelled", found["missing"]))
    return table(["", "number"], rows)


def _dropped(ingest: dict[str, Any]) -> str:
    dropped = ingest["dropped"]
    if not dropped["count"]:
        return "No study of the source was left out."
    reasons = sorted(dropped["reasons"].items(), key=lambda item: -item[1]["count"])
    heads = [f"{dropped['count']} studies left out, because", "number"]
    return table(heads, [(plain(reason), found["count"]) for reason, found in reasons])


def _parts(evidence: Evidence) -> str:
    names = evidence.task.finding_names
    heads = [
        "part",
        "studies",
        "patients",
        *(f"{plain(evidence.title(n))}, present" for n in names),
    ]
    rows = []
    for part, told in evidence.audit["parts"].items():
        shares = [_share(told["findings"][name]) for name in names]
        rows.append((part, told["studies"], told["patients"], *shares))
    return table(heads, rows)


def _share(found: dict[str, Any]) -> str:
    share = found["prevalence"]
    return f"{found['positive']}" if share is None else f"{found['positive']} ({share:.0%})"


def _audit(audit: dict[str, Any]) -> str:
    exact, near = audit["exact_duplicates"], audit["near_duplicates"]
    return bullets(
        [
            f"patient groups in more than one part: {audit['shared_groups']}; patients:"
            f" {audit['shared_patients']}",
            f"groups joined because they share a film: {audit['groups_merged']}",
            f"identical film files: {exact['files']}, of these in more than one part:"
            f" {exact['files_across_parts']}",
            f"pairs of the same film encoded anew: {near['same_film']}, of these across parts:"
            f" {near['same_film_across_parts']}",
        ]
    )
