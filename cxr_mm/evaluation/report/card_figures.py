"""Card, the figures: performance by what is shown, comparisons, thresholds and calibration."""

from collections.abc import Iterator

from cxr_mm.evaluation.flags import EvaluationResults, Figures, uncertainties
from cxr_mm.evaluation.report.text import headline, number, p_value, plain, table, with_interval
from cxr_mm.evaluation.subsets import AVAILABLE

READING = {
    "youden": "the best sum of sensitivity and specificity",
    "high_sensitivity": "the sensitivity asked for",
    "high_specificity": "the specificity asked for",
}
SHARES = ("coverage", "uncertain", "accuracy_when_certain")
BRIER = ("reliability", "resolution", "uncertainty", "within_bin")


def performance_section(results: EvaluationResults) -> str:
    """One table over subsets, one over findings where there are several, and comparisons."""
    metrics = results.metrics
    parts = [
        "## Performance",
        f"On {metrics['n_studies']} held-out studies of {metrics['n_patients']} patients, none of"
        " whom the model that answered was fitted on. Brackets are 95 % intervals over patients"
        f" ({metrics['bootstrap']} resamples). `available` shows each study with whatever it has;"
        " the other rows hide all but the modalities named, on the studies that have them.",
        _by_subset(results),
        *_over_divisions(results),
    ]
    findings = results.figures(AVAILABLE)
    if len(findings) > 1:
        parts += [f"By finding, `{AVAILABLE}`:", _by_finding(results, findings)]
    if results.comparisons["comparisons"]:
        parts += ["### Is one better than another?", _comparisons(results)]
    return "\n\n".join(parts)


def _by_subset(results: EvaluationResults) -> str:
    heads = ["shown", "studies", "AUC", "sensitivity", "specificity", "Brier"]
    rows = [
        (f"`{name}`", subset["n"], *_core(headline(subset)))
        for name, subset in results.metrics["subsets"].items()
    ]
    mean = ["Mean over findings."] if len(results.task.findings) > 1 else []
    return "\n\n".join([*mean, table(heads, rows)])


def _over_divisions(results: EvaluationResults) -> list[str]:
    """Mean figures over several divisions into folds; empty where there is only one."""
    further = results.metrics.get("divisions")
    if not further:
        return []
    rows = [(f"`{n}`", *_core(headline(subset))) for n, subset in further["subsets"].items()]
    result = (
        f"The above is of one division into folds. Mean over {further['count']} divisions of the"
        " same studies, which depends less on one draw:"
    )
    return [result, table(["shown", "AUC", "sensitivity", "specificity", "Brier"], rows)]


def _by_finding(results: EvaluationResults, findings: Figures) -> str:
    heads = ["finding", "studies", "present", "AUC", "sensitivity", "specificity", "Brier"]
    return table(
        heads,
        [
            (plain(results.title(name)), found["n"], found["positives"], *_core(found))
            for name, found in findings.items()
        ],
    )


def _core(figures: Figures) -> tuple[str, ...]:
    names = ("auc", "sensitivity", "specificity", "brier")
    return tuple(with_interval(figures[name]) for name in names)


def _comparisons(results: EvaluationResults) -> str:
    rows = [
        (
            _where(results, c["finding"], f"`{c['subset']}` minus `{c['against']}`"),
            c["n"],
            with_interval(c["difference"], "+.3f"),
            p_value(c["p"]).removeprefix("= "),
            p_value(c.get("p_holm")).removeprefix("= "),
        )
        for c in results.comparisons["comparisons"]
    ]
    heads = [
        "AUC, paired",
        "studies",
        "difference",
        "p (DeLong, by patient)",
        "p, corrected (Holm)",
    ]
    return table(heads, rows)


def _where(results: EvaluationResults, finding: str, text: str) -> str:
    several = len(results.task.findings) > 1
    return f"{plain(results.title(finding))}: {text}" if several else text


def operating_section(results: EvaluationResults) -> str:
    """Thresholds of the bundle, and what those of the evaluation reached on held-out studies."""
    points = results.index.operating_points
    if not points:
        return (
            "## Operating point\n\nThe likeliest class is the answer; there is no threshold to set."
        )
    decision = results.index.decision
    heads = [
        "shown",
        "threshold",
        "sensitivity where chosen",
        "specificity where chosen",
        "sensitivity held out",
        "specificity held out",
    ]
    rows = [
        (
            _where(results, finding, f"`{subset}`"),
            number(chosen[decision].threshold),
            number(chosen[decision].sensitivity),
            number(chosen[decision].specificity),
            *_heldout_rates(results, subset, finding),
        )
        for subset, found in points.items()
        for finding, chosen in found.items()
    ]
    return "\n\n".join(
        [
            "## Operating point",
            f"Predictions use `{decision}`: {READING[decision]}. A probability at or above the"
            " threshold is called positive. The bundle also holds"
            f" {' and '.join(f'`{name}`' for name in READING if name != decision)}.",
            table(heads, rows),
        ]
    )


def _heldout_rates(results: EvaluationResults, subset: str, finding: str) -> Iterator[str]:
    figures = results.figures(subset).get(finding, {})
    missing = {"value": None}
    return (with_interval(figures.get(name, missing)) for name in ("sensitivity", "specificity"))


def calibration_section(results: EvaluationResults) -> str:
    """ECE, line and Brier score of each finding and subset; coverage where it was measured."""
    heads = ["shown", "ECE", "mean too high by", "intercept (ideal 0)", "slope (ideal 1)"]
    rows = [
        (
            _where(results, finding, f"`{subset}`"),
            with_interval(found["ece"]),
            with_interval(found["calibration_in_the_large"], "+.3f"),
            with_interval(found["calibration_intercept"], ".2f"),
            with_interval(found["calibration_slope"], ".2f"),
        )
        for subset in results.metrics["subsets"]
        for finding, found in results.figures(subset).items()
    ]
    parts = [
        "## Calibration",
        "Whether 30 % means 30 in a hundred. ECE is the mean distance of predicted from observed"
        " share over bins of equal size, and larger the fewer the studies; a slope below 1 says"
        " that probabilities are too extreme.",
        table(heads, rows),
        _brier(results),
        _coverage(results),
    ]
    return "\n\n".join(part for part in parts if part)


def _brier(results: EvaluationResults) -> str:
    figures = results.figures(AVAILABLE)
    rows = [
        (plain(results.title(name)), number(found["brier"]["value"]), *_terms(found))
        for name, found in figures.items()
        if "brier_decomposition" in found
    ]
    if not rows:
        return ""
    heads = [f"Brier score, `{AVAILABLE}`", "score", "reliability", "resolution", "uncertainty"]
    text = (
        "Score = reliability − resolution + uncertainty + what bins hide. Small reliability and"
        " large resolution are good."
    )
    return f"{text}\n\n" + table([*heads, "within bins"], rows)


def _terms(found: Figures) -> Iterator[str]:
    return (number(found["brier_decomposition"].get(term)) for term in BRIER)


def _coverage(results: EvaluationResults) -> str:
    rows = []
    target = None
    for subset in results.metrics["subsets"]:
        for title, figures in uncertainties(results, subset):
            target = figures["target"]
            shares = (with_interval(figures[name]) for name in SHARES)
            rows.append((f"{plain(title)}, `{subset}`", *shares))
    if target is None:
        return ""
    heads = ["shown", "true answer left open", "answered “uncertain”", "right where certain"]
    text = (
        "### When the model says “uncertain”\n\nPrediction sets are to hold the true answer in"
        f" {target:.0%} of studies; where more than one answer is left, the model says so."
    )
    return f"{text}\n\n{table(heads, rows)}"
