"""Text of reports: summaries of metrics.json for a terminal, and pieces of Markdown."""

import textwrap
from collections.abc import Sequence
from typing import Any

from cxr_mm.evaluation.subsets import AVAILABLE, SMALLEST

COLUMNS = {
    "accuracy": "acc",
    "sensitivity": "sens",
    "specificity": "spec",
    "brier": "Brier",
    "ece": "ECE",
}

MOST_FLAGS, WIDTH = 5, 100


def summary(metrics: dict[str, Any], flags: Sequence[dict[str, str]] = ()) -> str:
    """One line per subset of modalities, then per finding where there are several; fusion gain.

    Args:
        metrics: what metrics.json holds.
        flags: what flags.json holds; the first few are printed, the others counted.
    """
    lines = [_headline(metrics), _row("shown", "n", "AUC [95 % CI]", *COLUMNS.values())]
    for name, subset in metrics["subsets"].items():
        lines.append(_line(name, subset["n"], headline(subset)))
    findings = metrics["subsets"][AVAILABLE]["findings"]
    if len(findings) > 1:
        lines.append(f"by finding, {AVAILABLE}:")
        lines += [_line(f"  {name}", f["n"], f) for name, f in findings.items()]
    if gain := metrics.get("fusion_gain"):
        lines.append(_gain(gain))
    lines += _flags(flags)
    return "\n".join(lines)


def _flags(flags: Sequence[dict[str, str]]) -> list[str]:
    lines = []
    for flag in flags[:MOST_FLAGS]:
        text = f"flag ({flag['kind']}): {flag['text']}"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ")
    more = len(flags) - MOST_FLAGS
    if more > 0:
        lines.append(f"{more} more flags in model_card.md")
    return lines


def headline(subset: dict[str, Any]) -> dict[str, Any]:
    """Headline figures of a subset: of its only finding, or the mean over findings."""
    figures: dict[str, Any] = subset.get("macro") or next(iter(subset["findings"].values()))
    return figures


def _headline(metrics: dict[str, Any]) -> str:
    mark = " [SYNTHETIC DATA]" if metrics.get("synthetic") else ""
    return (
        f"{metrics['task']}: {metrics['title']}{mark}, {metrics['n_studies']} held-out studies "
        f"of {metrics['n_patients']} patients"
    )


def _line(name: str, n: int, figures: dict[str, Any]) -> str:
    cells = [number(figures[metric]["value"], missing=DASH) for metric in COLUMNS]
    return _row(name, str(n), with_interval(figures["auc"], missing=DASH), *cells)


def _row(name: str, n: str, auc: str, *cells: str) -> str:
    return f"{name:<20}{n:>6}  {auc:<22}" + "".join(f"{cell:>7}" for cell in cells)


def _gain(gain: dict[str, Any]) -> str:
    figures = gain.get("macro") or next(iter(gain.get("findings", {}).values()), None)
    if figures is None:
        return f"fusion gain: {gain['reason']}"
    change = with_interval(figures["difference"], "+.3f", DASH)
    return (
        f"fusion gain: AUC {change} over the best single ({figures['best_single']}), "
        f"{gain['studies']} complete studies"
    )


NONE, DASH = "–", "-"
"""What stands for a missing figure in Markdown and, in ASCII, in a terminal."""
SMALLEST_P = 0.001


def plain(text: str) -> str:
    """Untrusted text on one line, escaped: no emphasis, code, HTML or end of a table's cell."""
    words = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "*<`|" else letter for letter in words)


def number(value: float | None, form: str = ".3f", missing: str = NONE) -> str:
    """A figure, or a dash where it is missing."""
    return missing if value is None else f"{value:{form}}"


def with_interval(figure: dict[str, Any] | None, form: str = ".3f", missing: str = NONE) -> str:
    """`0.913 [0.880, 0.941]`; a dash where it is not defined, or was not measured."""
    if figure is None:
        return missing
    if figure["value"] is None or not figure.get("ci95"):
        return number(figure["value"], form, missing)
    low, high = figure["ci95"]
    return f"{figure['value']:{form}} [{low:{form}}, {high:{form}}]"


def p_value(p: float | None) -> str:
    """`= 0.034`, or `< 0.001`."""
    if p is None:
        return NONE
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"= {p:.3f}"


LINES = {
    "calibration_in_the_large": ("calibration in the large", "+.3f", 0.0),
    "calibration_intercept": ("calibration intercept", "+.2f", 0.0),
    "calibration_slope": ("calibration slope", ".2f", 1.0),
    "auc": ("AUC", ".3f", None),
}
WRONG = {
    "calibration_in_the_large": ("probabilities are too low", "probabilities are too high"),
    "calibration_intercept": ("probabilities are too high", "probabilities are too low"),
    "calibration_slope": ("predictions are too extreme", "predictions are too timid"),
}
"""Interpretation where the whole interval is below the ideal, or above it."""
GAIN_METRICS = {
    **LINES,
    "ece": ("ECE", ".3f", None),
    "brier": ("Brier", ".3f", None),
    "sensitivity": ("sensitivity", ".3f", None),
    "specificity": ("specificity", ".3f", None),
}
RATES = {"sensitivity": "sensitivity (chosen with)", "specificity": "specificity (chosen with)"}
METHODS = {
    "none": "left as it is",
    "intercept": "new intercept",
    "intercept_and_slope": "new intercept and slope",
}


def external_summary(metrics: dict[str, Any]) -> str:
    """Text of metrics.json of `evaluate-on`, as text for a terminal."""
    first = metrics["transportability"]
    lines = [
        f"{metrics['model']}, on {metrics['manifest']}: {metrics['n_studies']} studies of "
        f"{metrics['n_patients']} patients, {metrics['bad_rows']} bad rows",
        "",
    ]
    for name, found in first["findings"].items():
        lines += _finding(name, found)
    for text in first["warnings"]:
        lines += textwrap.wrap(f"warning: {text}", WIDTH, subsequent_indent="  ")
    lines += ["", *_studies(first["studies"])]
    if first["caveats"]:
        lines += ["", "the model's task says:"]
        for text in first["caveats"]:
            lines += textwrap.wrap(
                " ".join(text.split()),
                WIDTH,
                initial_indent="  - ",
                subsequent_indent="    ",
            )
    return "\n".join([*lines, "", summary(metrics), "", *_recalibration(metrics)])


def _finding(name: str, found: dict[str, Any]) -> list[str]:
    lines = [f"{name}: {found['positives']} of {found['n']}"]
    for metric, (title, form, ideal) in LINES.items():
        wanted = "" if ideal is None else f"ideal {ideal:g}"
        cells = f"  {title:<26}{_figure(found[metric], form):<26}{wanted:<9}"
        lines.append(f"{cells}{miscalibration(metric, found[metric])}".rstrip())
    if found["operating_points"]:
        lines.append(
            f"  {'at the threshold of':<26}" + "".join(f"{r:<31}" for r in RATES.values()).rstrip()
        )
    for reason, point in found["operating_points"].items():
        title = f"{reason}, in use" if point["in_use"] else reason
        rates = [
            f"{_figure(point[rate], '.3f')} ({point[rate]['chosen_with']:.3f})" for rate in RATES
        ]
        lines.append(f"  {title:<26}" + "".join(f"{rate:<31}" for rate in rates).rstrip())
    return lines


def miscalibration(metric: str, figure: dict[str, Any]) -> str:
    """What is wrong where the interval excludes the ideal; the reason of a missing figure."""
    ideal = LINES[metric][2]
    if ideal is None or not figure["ci95"]:
        return str(figure.get("reason", ""))
    low, high = figure["ci95"]
    too_low, too_high = WRONG[metric]
    return too_low if high < ideal else too_high if low > ideal else ""


def _studies(studies: dict[str, Any]) -> list[str]:
    here, trained = studies["here"], studies["trained_on"]
    lines = [f"{'how the studies differ':<28}{'trained on':<26}here"]

    def line(title: str, before: str, now: str) -> None:
        lines.append(f"  {title:<26}{before or 'not said':<26}{now}")

    line("studies (patients)", _count(trained), _count(here))
    for name, share in here["positive"].items():
        line(f"with {name}", _percent(trained.get("positive", {}).get(name)), _percent(share))
    for name, share in here["missing"].items():
        line(f"{name} missing", _percent(trained.get("missing", {}).get(name)), _percent(share))
    for name, trait in here["traits"].items():
        line(name, _trait(trained.get("traits", {}).get(name)), _trait(trait))
    return lines


def _count(profile: dict[str, Any]) -> str:
    return f"{profile['studies']} ({profile['patients']})" if profile.get("studies") else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _trait(trait: dict[str, Any] | None) -> str:
    if not trait or trait.get("known") == 0:
        return "not known" if trait else ""
    if "mean" in trait:
        return f"{trait['mean']:.4g} (SD {trait['sd']:.3g})"
    return ", ".join(f"{name} {share:.0%}" for name, share in trait["shares"].items())


def _recalibration(metrics: dict[str, Any]) -> list[str]:
    found = metrics["recalibration"]
    if not found["gain"]:
        return [f"recalibration: too few patients of the rarer class, {SMALLEST} are needed"]
    lines = ["recalibration would change:" if "bundle" not in found else "recalibrated:"]
    for subset, updates in found["updates"].items():
        for name, update in updates.items():
            lines.append(f"  {subset}: {name}: {_update(update)}")
    for subset, left in found["left"].items():
        lines += [f"  {subset}: {name}: left as it is: {reason}" for name, reason in left.items()]
    lines.append(f"recalibration gain, cross-validated by patient ({found['folds']} folds):")
    for name, gains in found["gain"][AVAILABLE].items():
        lines.append(f"  {name:<26}{'before':<25}{'after':<25}difference")
        lines += [_gain_line(title, form, gains[m]) for m, (title, form, _) in GAIN_METRICS.items()]
    if "bundle" in found:
        lines.append(f"new bundle: {found['bundle']} (digest {found['digest'][:12]})")
    else:
        lines.append("write that bundle with --recalibrate FOLDER")
    return lines


def _update(update: dict[str, Any]) -> str:
    """`new intercept and slope: 0.512 × logit - 0.30`."""
    if update["method"] == "none":
        return METHODS["none"]
    sign = "-" if update["intercept"] < 0 else "+"
    scaled = "" if update["method"] == "intercept" else f"{update['slope']:.3f} × "
    return f"{METHODS[update['method']]}: {scaled}logit {sign} {abs(update['intercept']):.2f}"


def _gain_line(title: str, form: str, found: dict[str, Any]) -> str:
    signed = "+" + form.lstrip("+")
    cells = f"{_figure(found['before'], form):<25}{_figure(found['after'], form):<25}"
    return f"  {title:<26}{cells}{_figure(found['difference'], signed)}"


def _figure(figure: dict[str, Any], form: str) -> str:
    return with_interval(figure, form, DASH)
