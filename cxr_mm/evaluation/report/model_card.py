"""Model card in Markdown, written from the evaluation results (Mitchell et al., FAT* 2019).

Every statement about performance comes from a file of the stage.
"""

from typing import Any

import yaml

from cxr_mm import __version__
from cxr_mm.core.config import Params
from cxr_mm.core.prediction import NOTICE
from cxr_mm.core.templates import render
from cxr_mm.data.notes import PACKAGED, language_of
from cxr_mm.evaluation.flags import (
    METRIC_NAMES,
    EvaluationResults,
    Flag,
    shortcuts_found,
    uncertainties,
)
from cxr_mm.evaluation.report.text import headline, number, p_value, plain, with_interval
from cxr_mm.evaluation.resampling import exact_interval
from cxr_mm.evaluation.subgroups import CROSSED, METRICS
from cxr_mm.models.input_gate import InputGateSpec

SECTIONS_OF_MODEL = ("ingest", "split", "train_image", "embed", "fuse")


def model_card(results: EvaluationResults, flags: list[Flag]) -> str:
    """Write the whole card as Markdown."""
    task = results.task
    return render(
        "model_card.md",
        results=results,
        task=task,
        index=results.index,
        metrics=results.metrics,
        ingest=results.ingest,
        audit=results.audit,
        subgroups=results.subgroups,
        shortcuts=results.shortcuts,
        explained=results.faithfulness.get("methods", {}),
        findings=", ".join(plain(f.title) for f in task.findings),
        flags=flags,
        notice=NOTICE,
        version=__version__,
        unmeasured=_unmeasured(results),
        prediction_sets=[
            (title, subset, figures)
            for subset in results.metrics["subsets"]
            for title, figures in uncertainties(results, subset)
        ],
        **_shortcuts(results.shortcuts),
        shortcuts_found=list(shortcuts_found(results)),
        true_areas=_pairs(results.faithfulness.get("localisation") or {}),
        digests=_digests(results),
        parameters=_changed_parameters(results),
        note_language=_note_language(results),
        gate=results.gate,
        gate_rejected=_gate_rejected(results.gate),
        gate_elsewhere=results.gate_elsewhere,
        mitigation=[
            (finding, by, method, found)
            for finding, divisions in results.subgroups["mitigation"].items()
            for by, methods in divisions.items()
            for method, found in methods.items()
        ],
        gaps=_gaps,
        crossed=CROSSED,
        metric_names=METRIC_NAMES,
        plain=plain,
        number=number,
        interval=with_interval,
        p_value=p_value,
        headline=headline,
    )


def _pairs(nested: dict[str, dict[str, Any]]) -> list[tuple[str, str, Any]]:
    """Rows of a dictionary of dictionaries: outer key, inner key, value."""
    return [(a, b, value) for a, inner in nested.items() for b, value in inner.items()]


def _unmeasured(results: EvaluationResults) -> list[str]:
    """Groups with a figure missing for some finding, each once."""
    titles = results.subgroups["characteristics"]
    few = {
        f"{plain(titles[by]['title'])} {plain(name)}": None
        for divisions in results.subgroups["findings"].values()
        for by, division in divisions.items()
        if CROSSED not in by
        for name, group in division["groups"].items()
        if "few" in group
    }
    return list(few)


def _gate_rejected(gate: InputGateSpec | None) -> list[tuple[str, int, dict[str, Any]]]:
    """Shares of the task's own images, and of copies of them, that the input gate rejects."""
    if gate is None:
        return []
    counts = (
        ("images of this task", gate.limits_from, gate.rejected),
        (
            "copies of them, placed, exposed, cropped or stored otherwise",
            gate.copies,
            gate.copies_rejected,
        ),
    )
    return [
        (title, total, {"value": some / total, "ci95": exact_interval(some / total, total)})
        for title, total, some in counts
        if total and some is not None
    ]


def _gaps(divisions: dict[str, Any]) -> list[dict[str, Any]]:
    """Gaps between groups that could be tested, each with its characteristic and metric."""
    return [
        {**division["gaps"][metric], "by": by, "metric": metric}
        for by, division in divisions.items()
        for metric in METRICS
        if division["gaps"][metric]["value"] is not None
    ]


def _shortcuts(shortcuts: dict[str, Any]) -> dict[str, Any]:
    traits = shortcuts["embedding"]["traits"].values()
    alone = _pairs(shortcuts["alone"])
    return {
        "embedding_levels": _pairs({trait["title"]: trait["levels"] for trait in traits}),
        "inputs_alone": alone,
        "within_strata": [
            (f, name, found["within"]) for f, name, found in alone if "within" in found
        ],
    }


def _digests(results: EvaluationResults) -> dict[str, str]:
    trained = results.index.trained_on
    names = ("manifest", "pixels")
    inputs = {name: trained.get(f"{name}_sha256") for name in names}
    known = {name: digest for name, digest in inputs.items() if digest}
    return {"bundle": results.index.digest, **known, **results.digests}


def _note_language(results: EvaluationResults) -> str:
    """Which language the note encoder was trained on."""
    trained: dict[str, Any] = results.index.trained_on.get("params", {})
    return language_of(plain(trained.get("embed", {}).get("note_encoder", PACKAGED)))


def _changed_parameters(results: EvaluationResults) -> str:
    """Parameters of the bundle and of this evaluation that are no defaults, as YAML; or nothing."""
    defaults = Params(tasks=(results.task.name,)).model_dump(mode="json")
    trained: dict[str, Any] = results.index.trained_on.get("params", {})
    used = {section: trained[section] for section in SECTIONS_OF_MODEL if section in trained}
    used["evaluate"] = results.params.model_dump(mode="json")
    changed = {
        section: {k: v for k, v in values.items() if defaults[section].get(k) != v}
        for section, values in used.items()
    }
    changed = {section: values for section, values in changed.items() if values}
    return yaml.safe_dump(changed, allow_unicode=True) if changed else ""
