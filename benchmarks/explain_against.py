"""Against stock: LIME and SHAP of a film beside the calls that lime and shap document."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from benchmarks.explain_bench import Bench, fresh, seconds, timed
from benchmarks.explain_stock import Stock, r_squared, uniform
from benchmarks.rows import Row
from cxr_mm.contracts.explanation import Attribution, Target
from cxr_mm.explain.faithfulness.measure import CELLS
from cxr_mm.explain.faithfulness.ranking import deletion_and_insertion
from cxr_mm.explain.games import FilmGame
from cxr_mm.explain.games.film import grid, superpixels
from cxr_mm.explain.lime_fit import RIDGE, closeness
from cxr_mm.explain.methods import METHODS, SUPERPIXELS, Ask
from cxr_mm.explain.subject import Subject

STOCK_STUDIES = 3
FRESH = 100
"""Coalitions on which the fit of a linear model is measured, none of which it was fitted on."""
INSERTION = "insertion, logits above random order"
FIT = "R² on fresh coalitions"


@dataclass(frozen=True)
class Pair:
    """One study explained by both."""

    faster: float
    own_insertion: float
    stock_insertion: float
    own_fit: float = 0.0
    same_game_fit: float = 0.0
    stock_fit: float = 0.0


def against_stock(bench: Bench) -> list[Row]:
    """Rows of LIME and SHAP of the film."""
    lime, shap = list(_lime(bench)), list(_shap(bench))
    rows = []
    for title, library, pairs in (("LIME", "lime_image", lime), ("SHAP", "shap", shap)):
        row, n = f"{title} of the film", len(pairs)
        faster = statistics.median(p.faster for p in pairs)
        own = statistics.median(p.own_insertion for p in pairs)
        stock = round(statistics.median(p.stock_insertion for p in pairs), 4)
        rows += [
            bench.row(row, f"times as fast as {library}", faster, n, must=4.0, aim=10.0),
            bench.row(row, INSERTION, own, n, reference=stock),
        ]
    return [*rows, *_fits(bench, lime)]


def _fits(bench: Bench, pairs: list[Pair]) -> list[Row]:
    """How well linear models foretell coalitions that they have not seen."""
    n = len(pairs)
    same = round(statistics.median(p.same_game_fit for p in pairs), 4)
    own = statistics.median(p.own_fit for p in pairs)
    stock = statistics.median(p.stock_fit for p in pairs)
    return [
        bench.row("LIME of the film, beside 1,000 uniform coalitions", FIT, own, n, reference=same),
        bench.row("lime_image, of its own fill by mean grey", FIT, stock, n),
    ]


def _lime(bench: Bench) -> Iterator[Pair]:
    for known in bench.subjects[:STOCK_STUDIES]:
        stock = Stock(known, bench.target)
        faster, subject, said = _raced(bench, known, "lime_image", stock.lime)
        own, same_game = _fit_of(subject, bench.target, said)
        inserted = _insertions(subject, bench.target, said.values, stock.lime_map())
        yield Pair(faster, *inserted, own, same_game, stock.lime_fit(FRESH))


def _shap(bench: Bench) -> Iterator[Pair]:
    for known in bench.subjects[:STOCK_STUDIES]:
        stock = Stock(known, bench.target)
        faster, subject, said = _raced(bench, known, "shap_image", stock.shap)
        yield Pair(faster, *_insertions(subject, bench.target, said.values, stock.shap_map()))


def _raced(
    bench: Bench, known: Subject, method: str, stock: Callable[[], None]
) -> tuple[float, Subject, Attribution]:
    """How many times as fast as the stock call, and what was said of which subject."""
    taken, subject = seconds(stock), fresh(known)
    own, said = timed(partial(METHODS[method].explain, subject, bench.target, Ask()))
    return taken / own, subject, said


def _insertions(
    subject: Subject, target: Target, own: NDArray[np.float32], stock: NDArray[np.float32]
) -> tuple[float, float]:
    """Of two maps (S, S): how much sooner than in random order the logit rises."""
    game = FilmGame(subject, target, grid(subject, CELLS))
    first, second = (deletion_and_insertion(game, game.scores(m), 0) for m in (own, stock))
    return first["insertion"], second["insertion"]


def _fit_of(subject: Subject, target: Target, said: Attribution) -> tuple[float, float]:
    """R² of LIME's linear model, and of one through 1,000 coalitions drawn as lime draws them."""
    game = FilmGame(subject, target, superpixels(subject, SUPERPIXELS))
    weights = game.scores(said.values)
    kept = uniform(FRESH, game.count, 99)
    true = game.values(kept)
    asked = uniform(1000, game.count, 0)
    many = Ridge(alpha=RIDGE).fit(asked, game.values(asked), sample_weight=closeness(asked))
    own = r_squared(true, said.extra["intercept"] + kept @ weights)
    return own, r_squared(true, many.predict(kept))
