"""Part `film_gate`: how often the film gate refuses or warns, of true films and of other pictures.

Gates are fitted as the stage `fuse` does, but each is asked of films of patients that it has not
seen: the test part, or each fold in turn. The tasks are those whose stages up to `train_image` have
run below the folder in CXR_MM_RUNS (default: this one).
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from benchmarks.foreign import foreign_pictures
from benchmarks.rows import Row
from cxr_mm.contracts.manifest import ABSENT, Manifest
from cxr_mm.data.altered import ALTERATIONS, cropped
from cxr_mm.data.cache import open_pixels
from cxr_mm.data.ingest import load_manifest
from cxr_mm.data.split import Resample, load_split, resamples
from cxr_mm.data.tasks import load_task, shipped_tasks
from cxr_mm.data.transform import fit_square
from cxr_mm.models.film_gate import FilmGate
from cxr_mm.models.image_encoder import ImageEncoder, load_image_encoder
from cxr_mm.params import Params, for_task, load_params
from cxr_mm.paths import TaskPaths
from cxr_mm.training.film_copies import Copies, embed_squares, film_copies
from cxr_mm.training.film_embeddings import film_embeddings
from cxr_mm.training.film_gate import GateFilms, fit_film_gate, gate_films

TABLE, KINDS_TABLE = "film_gate", "film_gate: by kind"
COMMAND = "make benchmark PART=film_gate"
RUNS_VARIABLE = "CXR_MM_RUNS"
MUST = 0.02
SAMPLE, SEED = 200, 1
"""Films of which altered copies are made, and of another task; not the seed of the gate's own."""
LEARNT = " (a kind the gate learns from)"
MADE_UP = ("noise", "blank")
"""Drawn here, but of the kind that is made up for the gate to learn from."""
Squares = NDArray[np.uint8]


def measure() -> list[Row]:
    """Rows of every task with films and an image encoder."""
    root = Path(os.environ.get(RUNS_VARIABLE) or ".")
    tasks = [TaskPaths(name, root) for name in shipped_tasks()]
    runs = [Run(paths) for paths in tasks if (paths.image_encoder / "encoder.json").is_file()]
    rows: list[Row] = []
    for run in runs:
        others = {o.paths.task: partial(o.sample, run.size) for o in runs if o is not run}
        print(f"film_gate: {run.paths.task}", flush=True)
        rows += [*_false_refusals(run), *_by_kind(run)]
        for task, films in others.items():
            rows += _rows(run, f"films of {task}", films())
    return rows


@dataclass(frozen=True)
class Run:
    """A task's stages up to `train_image`, and its gates fitted without each test part."""

    paths: TaskPaths

    @cached_property
    def params(self) -> Params:
        return for_task(load_params(), load_task(self.paths.task))

    @cached_property
    def manifest(self) -> Manifest:
        return load_manifest(self.paths, load_task(self.paths.task))

    @cached_property
    def encoder(self) -> ImageEncoder:
        return load_image_encoder(self.paths.image_encoder)

    @property
    def size(self) -> int:
        return self.encoder.spec.size

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """Of every film in the pixel cache."""
        wanted = self.params.embed.precision
        return film_embeddings(self.encoder, self.paths, wanted)

    def embed(self, squares: Squares) -> NDArray[np.float32]:
        return embed_squares(self.encoder, squares, self.params.embed.precision)

    @cached_property
    def gates(self) -> list[tuple[FilmGate, NDArray[np.int64]]]:
        """Each gate with the rows of the pixel cache that it has not seen."""
        table = load_split(self.paths)
        parts = resamples(table)
        first, groups = parts[0], table["group"].to_numpy(object)
        train, val = (first.train, first.val) if len(parts) == 1 else (_all(parts), _all([]))
        films = gate_films(self.manifest, groups, train, val, self.params)
        copies = film_copies(
            self.encoder,
            self.paths,
            films.pixel_rows,
            self.params.fuse,
            self.params.embed.precision,
        )
        unseen = [self._films_of(part.test) for part in parts]
        return [(self._fit(films, copies, rows), rows) for rows in unseen]

    def _fit(self, films: GateFilms, copies: Copies, unseen: NDArray[np.int64]) -> FilmGate:
        kept = np.flatnonzero(~np.isin(films.pixel_rows, unseen))
        films = films.of(kept)
        embeddings = self.embeddings[films.pixel_rows]
        return fit_film_gate(embeddings, films, copies.of(kept), self.params.fuse)[0]

    def _films_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        found = np.unique(self.manifest.frame["pixel_row"].to_numpy(np.int64)[rows])
        there: NDArray[np.int64] = found[found != ABSENT]
        return there

    def sample(self, size: int) -> Squares:
        """Some films of the task as another one's encoder takes them."""
        pixels = open_pixels(self.paths.pixels)
        chosen = np.random.default_rng(SEED).permutation(len(pixels))[:SAMPLE]
        return np.stack([fit_square(pixels[row] / np.float32(255), size) for row in chosen])


def _all(parts: list[Resample]) -> NDArray[np.int64]:
    """Test rows of some parts."""
    return np.sort(np.concatenate([np.arange(0), *(part.test for part in parts)]))


def _false_refusals(run: Run) -> Iterator[Row]:
    """Of held-out films, by the gate that has not seen them."""
    found = [_doubted(gate, run.embeddings[rows]) for gate, rows in run.gates]
    every = np.concatenate(found)
    for metric, count, must in zip(
        ("refused", "refused or warned of"), every.sum(axis=0), (MUST, None), strict=True
    ):
        low, high = binomtest(int(count), len(every)).proportion_ci()
        yield Row(
            table=TABLE,
            task=run.paths.task,
            row="held-out films",
            metric=metric,
            value=count / len(every),
            ci95=(float(low), float(high)),
            must=must,
            ceiling=True,
            n=len(every),
            seed=run.params.fuse.seed,
            command=COMMAND,
        )


def _by_kind(run: Run) -> Iterator[Row]:
    """Of altered held-out films by the gates that have not seen them, of others by every gate."""
    found: dict[str, list[NDArray[np.bool_]]] = defaultdict(list)
    share = -(-SAMPLE // len(run.gates))
    pixels = open_pixels(run.paths.pixels)
    for number, (gate, rows) in enumerate(run.gates):
        random = np.random.default_rng([SEED, number])
        films = pixels[np.sort(random.permutation(rows)[:share])]
        for kind, copies in _altered(films, random).items():
            found[kind].append(_doubted(gate, run.embed(copies)))
    for kind, doubted in found.items():
        every = np.concatenate(doubted)
        yield from _two(run, kind, every.mean(axis=0).tolist(), len(every))
    for kind, pictures in foreign_pictures().items():
        kind += LEARNT if kind in MADE_UP else ""
        yield from _rows(run, kind, np.stack([fit_square(p, run.size) for p in pictures]))


def _altered(films: Squares, random: np.random.Generator) -> dict[str, Squares]:
    made = {
        f"{kind.replace('_', ' ')}{LEARNT}": np.stack([alter(film, random) for film in films])
        for kind, alter in ALTERATIONS.items()
    }
    made["cropped to 50 to 70 %"] = np.stack([cropped(f, random, (0.5, 0.7)) for f in films])
    made["mirrored (a film still; situs inversus cannot be told)"] = films[..., ::-1]
    return made


def _rows(run: Run, kind: str, squares: Squares) -> Iterator[Row]:
    """Of pictures that no gate has seen, the mean over the gates."""
    embedded = run.embed(squares)
    rates = np.mean([_doubted(gate, embedded).mean(axis=0) for gate, _ in run.gates], axis=0)
    yield from _two(run, kind, rates.tolist(), len(squares))


def _two(run: Run, kind: str, rates: list[float], count: int) -> Iterator[Row]:
    for metric, value in zip(("refused", "refused or warned of"), rates, strict=True):
        yield Row(
            table=KINDS_TABLE,
            task=run.paths.task,
            row=kind,
            metric=metric,
            value=value,
            n=count,
            seed=SEED,
            command=COMMAND,
        )


def _doubted(gate: FilmGate, embeddings: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Refused, and refused or warned of: (N, 2)."""
    doubts = gate.doubts(embeddings)
    return np.array([(d is not None and d.refused, d is not None) for d in doubts]).reshape(-1, 2)
