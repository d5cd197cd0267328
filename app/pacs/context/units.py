"""Units in UCUM (https://ucum.org): converted where both are of one kind, refused where not.

A table of what laboratories and monitors report, not a parser of UCUM: another unit is refused
by name. Amount of substance and mass are of different kinds, since their ratio depends on the
substance.
"""

import re

from cxr_mm.core.errors import ClinicalError

MMHG = 133.322387415
YEAR = 365.25
KINDS: dict[str, dict[str, float]] = {
    "mass concentration": {
        "g/L": 1, "mg/L": 1e-3, "ug/L": 1e-6, "ng/L": 1e-9, "g/dL": 10, "mg/dL": 1e-2,
        "ug/dL": 1e-5, "ng/dL": 1e-8, "g/mL": 1e3, "mg/mL": 1, "ug/mL": 1e-3, "ng/mL": 1e-6,
        "pg/mL": 1e-9,
    },
    "amount concentration": {
        "mol/L": 1, "mmol/L": 1e-3, "umol/L": 1e-6, "nmol/L": 1e-9, "pmol/L": 1e-12,
    },
    "number concentration": {
        "/L": 1, "/mL": 1e3, "/uL": 1e6, "/mm3": 1e6, "10*3/uL": 1e9, "10*3/mm3": 1e9,
        "10*3/L": 1e3, "10*6/L": 1e6, "10*9/L": 1e9, "10*12/L": 1e12, "10*6/uL": 1e12,
    },
    "catalytic concentration": {"U/L": 1, "mU/L": 1e-3, "kU/L": 1e3, "U/mL": 1e3, "mU/mL": 1},
    "temperature": {"Cel": 1, "[degF]": 5 / 9, "K": 1},
    "pressure": {
        "Pa": 1, "hPa": 100, "kPa": 1000, "mbar": 100, "mm[Hg]": MMHG, "cm[H2O]": 98.0665,
    },
    "fraction": {"1": 1, "%": 1e-2},
    "rate": {"/min": 1, "/s": 60, "/h": 1 / 60},
    "time": {"a": YEAR, "mo": YEAR / 12, "wk": 7, "d": 1, "h": 1 / 24, "min": 1 / 1440},
    "length": {"m": 1, "cm": 1e-2, "mm": 1e-3},
    "mass": {"kg": 1, "g": 1e-3, "[lb_av]": 0.45359237},
}  # fmt: skip
"""Kind → unit → how many of the kind's own unit it is."""
OFFSETS = {"[degF]": -32 * 5 / 9, "K": -273.15}
"""What is added to a temperature, after its factor, to give degrees Celsius."""
OTHER_SPELLINGS = {
    "°C": "Cel", "degC": "Cel", "°F": "[degF]", "degF": "[degF]", "mmHg": "mm[Hg]",
    "cmH2O": "cm[H2O]", "[iU]/L": "U/L", "IU/L": "U/L",
}  # fmt: skip
"""Spellings outside UCUM that mean one unit alone; `C`, `F` and `K` do not."""
ANNOTATION = re.compile(r"\{[^{}]*\}")
LITRE = re.compile(r"(?<=[/dmu])l\b")
POWER = re.compile(r"^[x×]?10[\^*]")
LONGEST_QUOTE = 20


def converted(value: float, unit: str, wanted: str, field: str) -> float:
    """A value in another unit, to ten significant digits.

    Args:
        value: in `unit`.
        unit: as a source writes it.
        wanted: UCUM, as a task has it; with both empty the value stays.
        field: name of the clinical feature, for the error.

    Raises:
        ClinicalError: one of the units is missing, unknown, or of another kind.
    """
    source, target = normal(unit), normal(wanted)
    if source == target:
        return value
    for kind, units in KINDS.items():
        if source in units and target in units:
            if kind == "temperature":
                celsius = value * units[source] + OFFSETS.get(source, 0.0)
                return _rounded((celsius - OFFSETS.get(target, 0.0)) / units[target])
            return _rounded(value * units[source] / units[target])
    raise _fault(unit, source, wanted, field)


def normal(unit: str) -> str:
    """A unit as UCUM spells it: without annotations, with `L` and `10*`."""
    text = ANNOTATION.sub("", unit.strip()).replace("µ", "u").replace("μ", "u")
    if text in OTHER_SPELLINGS:
        return OTHER_SPELLINGS[text]
    return POWER.sub("10*", LITRE.sub("L", text)) or ("1" if unit.strip() else "")


def _fault(unit: str, source: str, wanted: str, field: str) -> ClinicalError:
    quoted = unit[:LONGEST_QUOTE]
    if not source:
        what = "it has no unit"
    elif not any(source in units for units in KINDS.values()):
        what = f"unit {quoted!r} is unknown"
    else:
        what = f"unit {quoted!r} cannot be converted"
    return ClinicalError(
        what, kind="no number", field=field, remedy=f"Send it in {wanted or 'no unit'} (UCUM)"
    )


def _rounded(value: float) -> float:
    return float(f"{value:.10g}")
