"""Model card: what a reviewer must know, written from the figures (Mitchell et al., FAT* 2019).

Nothing is said of performance that a file of the stage does not hold.
"""

from collections.abc import Iterator
from typing import Any

import yaml

from cxr_mm import __version__
from cxr_mm.contracts.prediction import NOTICE
from cxr_mm.contracts.task import ClinicalFeature
from cxr_mm.contracts.units import spoken
from cxr_mm.evaluation.card_data import MODALITY_TITLES, data_section
from cxr_mm.evaluation.card_explanations import explanation_section
from cxr_mm.evaluation.card_figures import (
    calibration_section,
    operating_section,
    performance_section,
)
from cxr_mm.evaluation.card_groups import shortcut_section, subgroup_section
from cxr_mm.evaluation.evidence import Evidence
from cxr_mm.evaluation.flags import Flag
from cxr_mm.evaluation.markdown import bullets, plain, table, with_interval
from cxr_mm.evaluation.subgroups import CROSSED
from cxr_mm.evaluation.subsets import AVAILABLE
from cxr_mm.params import Params

SYNTHETIC = (
    "> # SYNTHETIC DATA\n>\n> Films, clinical features and notes are made up by a program. **No"
    " figure on this page says anything about patients.**"
)
SECTIONS_OF_MODEL = ("ingest", "split", "train_image", "embed", "fuse")


def model_card(evidence: Evidence, flags: list[Flag]) -> str:
    """The card, Markdown."""
    sections = [
        f"# Model card: {plain(evidence.task.title)}",
        SYNTHETIC if evidence.task.synthetic else "",
        f"> **{NOTICE}**",
        _glance(evidence),
        _flags(flags),
        _use(evidence),
        data_section(evidence),
        performance_section(evidence),
        operating_section(evidence),
        calibration_section(evidence),
        subgroup_section(evidence),
        shortcut_section(evidence),
        explanation_section(evidence),
        _limits(evidence),
        _reproduce(evidence),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _glance(evidence: Evidence) -> str:
    task, subset = evidence.task, evidence.metrics["subsets"][AVAILABLE]
    figures = subset.get("macro") or next(iter(subset["findings"].values()))
    mean = " (mean over findings)" if len(task.findings) > 1 else ""
    rows = [
        ("Model", plain(evidence.index.name)),
        ("Answers", ", ".join(plain(f.title) for f in task.findings) + f" ({task.problem})"),
        ("From", _inputs(evidence)),
        (
            "Held out",
            f"{evidence.metrics['n_studies']} studies, {evidence.metrics['n_patients']} patients",
        ),
        (f"AUC{mean}", with_interval(figures["auc"])),
        (f"Sensitivity{mean}", with_interval(figures["sensitivity"])),
        (f"Specificity{mean}", with_interval(figures["specificity"])),
        (f"Calibration error{mean}", with_interval(figures["ece"])),
        ("Bundle digest", f"`{evidence.index.digest}`"),
    ]
    return table(["", ""], rows).replace("| ---: |", "| --- |")


def _flags(flags: list[Flag]) -> str:
    if not flags:
        return "## Flags\n\nNo rule of the evaluation raised one."
    told = bullets(f"**{flag.kind}**: {plain(flag.text)}." for flag in flags)
    return f"## Flags\n\nRaised by rule, from intervals and counts.\n\n{told}"


def _use(evidence: Evidence) -> str:
    task = evidence.task
    findings = ", ".join(plain(f.title) for f in task.findings)
    views = f" in {', '.join(task.views)} view" if task.views and task.has_image else ""
    intended = [
        f"Research on {findings}: calibrated probabilities for patients like those of the"
        " data below, with a person who reads them and the film itself.",
        f"Input: {_inputs(evidence)}{views}. The probability is calibrated for what is there.",
    ]
    if task.clinical:
        intended.append("Clinical features: " + "; ".join(_feature(f) for f in task.clinical) + ".")
    return "\n\n".join(
        ["## Intended use", bullets(intended), "## Not for", bullets(_not_for(evidence))]
    )


def _inputs(evidence: Evidence) -> str:
    titles = [MODALITY_TITLES[m] for m in evidence.task.modalities]
    return f"any of {', '.join(titles)}" if len(titles) > 1 else titles[0]


def _feature(feature: ClinicalFeature) -> str:
    if feature.type == "category":
        return f"{plain(feature.title)} ({', '.join(plain(c) for c in feature.categories)})"
    limits = f"{feature.minimum:g} to {feature.maximum:g}"
    unit = f" {plain(spoken(feature.unit))}" if feature.unit else ""
    return f"{plain(feature.title)} ({limits}{unit})"


def _not_for(evidence: Evidence) -> Iterator[str]:
    task = evidence.task
    yield "Diagnosis, treatment, triage or any decision on a patient without a physician's own"
    if task.views and task.has_image:
        yield f"Views other than {', '.join(task.views)}, and images that are no chest radiograph"
    elif task.has_image:
        yield "Images that are no chest radiograph"
    if task.problem != "multilabel":
        yield "Findings other than those named, which the model has no answer for"
    if unmeasured := _unmeasured(evidence):
        yield "Groups too small to be measured in full: " + "; ".join(unmeasured)
    yield "Another hospital, before `cxr-mm evaluate-on` has measured it there"


def _unmeasured(evidence: Evidence) -> list[str]:
    """Groups with a figure missing for some finding; and levels that no held-out study has."""
    found: dict[str, None] = {}
    for divisions in evidence.subgroups["findings"].values():
        for by, told in divisions.items():
            if CROSSED not in by:
                title = evidence.subgroups["characteristics"][by]["title"]
                for name, group in told["groups"].items():
                    if "few" in group:
                        found[f"{plain(title)} {plain(name)}"] = None
    return list(found)


def _limits(evidence: Evidence) -> str:
    own = [
        "All figures are internal: the same source, other patients. No other hospital is in them.",
        "Intervals are over patients and take the model as given; another training would differ.",
    ]
    if evidence.task.split.protocol == "folds":
        own.append(
            "Figures are of models each fitted without one fold; the bundle is the same recipe"
            " fitted on all studies, and has no held-out study of its own."
        )
    return "\n\n".join(
        ["## Limits", bullets([*(plain(text) for text in evidence.task.caveats), *own])]
    )


def _reproduce(evidence: Evidence) -> str:
    name, trained = evidence.task.name, evidence.index.trained_on
    digests: list[tuple[str, object]] = [("bundle", f"`{evidence.index.digest}`")]
    for key in ("manifest_sha256", "pixels_sha256"):
        if trained.get(key):
            digests.append((key.removesuffix("_sha256"), f"`{trained[key]}`"))
    digests += [(file, f"`{digest}`") for file, digest in evidence.digests.items()]
    commands = f"```sh\ndvc repro evaluate@{name}\ncxr-mm summary {name}\n```"
    return "\n\n".join(
        [
            "## How to reproduce",
            f"cxr_mm {__version__}, with the task among `tasks` in params.yaml:",
            commands,
            table(["sha256 of", ""], digests).replace("| ---: |", "| --- |"),
            _parameters(evidence),
        ]
    )


def _parameters(evidence: Evidence) -> str:
    """Of the model as the bundle holds them, and of this evaluation."""
    defaults = Params(tasks=(evidence.task.name,)).model_dump(mode="json")
    said: dict[str, Any] = evidence.index.trained_on.get("params", {})
    used = {section: said[section] for section in SECTIONS_OF_MODEL if section in said}
    used["evaluate"] = evidence.params.model_dump(mode="json")
    changed = {
        section: {
            key: value for key, value in values.items() if defaults[section].get(key) != value
        }
        for section, values in used.items()
    }
    told = {section: values for section, values in changed.items() if values}
    if not told:
        return "All parameters are the defaults of cxr_mm/params.py."
    text = yaml.safe_dump(told, allow_unicode=True)
    return f"Parameters that differ from the defaults of cxr_mm/params.py:\n\n```yaml\n{text}```"
