"""Games: what can be taken out of each modality, and what the model says without it.

A game has players and a value for every coalition of them (Štrumbelj and Kononenko 2010). SHAP,
LIME, occlusion, deletion and insertion all ask the same games.
"""

from cxr_mm.explain.games.base import Game
from cxr_mm.explain.games.clinical import ClinicalGame
from cxr_mm.explain.games.film import FilmGame
from cxr_mm.explain.games.note import NoteGame

__all__ = ["ClinicalGame", "FilmGame", "Game", "NoteGame"]
