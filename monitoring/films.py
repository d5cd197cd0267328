"""Refused films: whether the film gate refuses more of them than it did in the reference.

One-sided exact test of two shares (Fisher 1922), its p value as a normal score so that it stands
beside the others.
"""

from dataclasses import dataclass

from scipy.stats import hypergeom

from monitoring.statistics import normal_score


@dataclass(frozen=True)
class RefusedFilms:
    """Shares of films that the gate refuses.

    Args:
        refused, films: of the window.
        refused_before, films_before: of the reference.
        score: of the change upwards, in standard deviations of a normal variable.
    """

    refused: int
    films: int
    refused_before: int
    films_before: int
    score: float

    @property
    def text(self) -> str:
        """From where to where."""
        before = 100 * self.refused_before / max(self.films_before, 1)
        return (
            f"Films refused as no frontal chest radiograph: {before:.1f} % → "
            f"{100 * self.refused / max(self.films, 1):.1f} % ({self.refused} of {self.films})"
        )


def score_refused(
    refused: int, films: int, refused_before: int, films_before: int
) -> RefusedFilms | None:
    """Score a window; None where it or the reference has no film."""
    if not films or not films_before:
        return None
    together = refused + refused_before
    chance = float(hypergeom.sf(refused - 1, films + films_before, together, films))
    return RefusedFilms(refused, films, refused_before, films_before, normal_score(chance))
