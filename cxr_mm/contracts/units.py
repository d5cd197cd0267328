"""Units: UCUM's codes as a person says them."""

SPOKEN = {
    "a": "years",
    "d": "days",
    "h": "hours",
    "Cel": "°C",
    "10*9/L": "×10⁹/L",
    "10*12/L": "×10¹²/L",
    "/min": "per minute",
    "mm[Hg]": "mmHg",
    "umol/L": "µmol/L",
}


def spoken(unit: str) -> str:
    """A unit behind a number, with the space between; empty where there is none."""
    return f" {SPOKEN.get(unit, unit)}" if unit else ""
