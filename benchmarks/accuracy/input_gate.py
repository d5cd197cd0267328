"""Part `input-gate`: how often the input gate refuses or warns, of radiographs and of others.

Gates are fitted as the stage `fuse` does, but each is tested on images of patients that it has not
seen: the test part, or each fold in turn. Images of other sources are also shown to the bundle's
gate, for the model card: `reports/TASK/input_gate.json`.
"""

import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.harness.outputs import has_run, paths_of
from benchmarks.harness.parts import Row
from cxr_mm.core.config import Params, for_task, load_params
from cxr_mm.core.files import write_json
from cxr_mm.core.paths import TaskPaths, bundle_digest
from cxr_mm.core.task import Task, load_task, shipped_tasks
from cxr_mm.data.manifest import ABSENT, Manifest, load_manifest
from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.data.sources import MERGED, members_of
from cxr_mm.data.split import load_split, resamples
from cxr_mm.evaluation.resampling import exact_interval, rounded
from cxr_mm.imaging.corruptions import random_corruption
from cxr_mm.imaging.geometry import fit_square
from cxr_mm.imaging.ood_images import OOD_COPIES, cropped
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.models.image_encoder import ImageEncoder, load_image_encoder
from cxr_mm.models.input_gate import InputGate, load_input_gate
from cxr_mm.training.embed import image_embeddings
from cxr_mm.training.input_gate import (
    Copies,
    GateImages,
    fit_input_gate,
    gate_images,
    ood_copies,
)

Picture = NDArray[np.float32]
"""float32 (H, W) in [0, 1]."""
CROPS, DRAWINGS = 4, 12
PHOTOGRAPHS = {
    "sklearn/datasets/images": "china.jpg flower.jpg",
    "skimage/data": (
        "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png "
        "hubble_deep_field.jpg moon.png motorcycle_left.png rocket.jpg"
    ),
}
"""By package and folder in it, names of files."""
MICROSCOPY = {"skimage/data": "cell.png ihc.png microaneurysms.png retina.jpg"}
GRAPHICS = {"skimage/data": "chessboard_GRAY.png color.png horse.png logo.png phantom.png"}
PAGES = {"skimage/data": "page.png text.png"}
SLICES = {
    "CT slices": "693_J2KI.dcm CT_small.dcm J2K_pixelrep_mismatch.dcm",
    "MR slices": "MR_small.dcm examples_overlay.dcm",
    "ultrasound": "examples_jpeg2k.dcm examples_palette.dcm examples_rgb_color.dcm",
    "scintigraphy": "JPEG2000.dcm",
}
SLICES_FOLDER = "pydicom/data/test_files"


def ood_images(seed: int = 0) -> dict[str, list[Picture]]:
    """Pictures by kind; a kind none of whose files is installed is left out."""
    random = np.random.default_rng(seed)
    photographs = list(_files(PHOTOGRAPHS))
    kinds = {
        "photographs": photographs,
        "crops of photographs": [
            _crop(picture, random) for picture in photographs for _ in range(CROPS)
        ],
        "microscopy and fundus": list(_files(MICROSCOPY)),
        "graphics": list(_files(GRAPHICS)),
        "drawings": _drawings(_drawing, random),
        "charts": _drawings(_chart, random),
        "pages of text": [*_files(PAGES), *_drawings(_page, random)],
        **{kind: list(_files({SLICES_FOLDER: names})) for kind, names in SLICES.items()},
        "noise": _drawings(lambda r: r.random((256, 256)), random),
        "blank": [np.full((256, 256), grey, np.float32) for grey in np.linspace(0, 1, 6)],
    }
    return {kind: pictures for kind, pictures in kinds.items() if pictures}


def _folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _files(wanted: dict[str, str]) -> Iterator[Picture]:
    """Those pictures that are installed, of folders of packages."""
    for place, names in wanted.items():
        package, _, below = place.partition("/")
        folder = _folder(package)
        paths = [folder / below / name for name in names.split()] if folder else []
        for path in filter(Path.is_file, paths):
            is_dicom = path.suffix == ".dcm"
            yield read_radiograph(path).pixels if is_dicom else _grey(Image.open(path))


def _grey(image: Image.Image) -> Picture:
    return np.asarray(image.convert("L"), np.float32) / np.float32(255)


def _crop(picture: Picture, random: np.random.Generator) -> Picture:
    size = [round(side * random.uniform(0.4, 0.8)) for side in picture.shape]
    top, left = (random.integers(0, s - n + 1) for s, n in zip(picture.shape, size, strict=True))
    return picture[top : top + size[0], left : left + size[1]]


def _drawings(
    draw: Callable[[np.random.Generator], NDArray[np.generic]], random: np.random.Generator
) -> list[Picture]:
    return [np.asarray(draw(random), np.float32) for _ in range(DRAWINGS)]


def _drawing(random: np.random.Generator) -> NDArray[np.float32]:
    """Ellipses, boxes and lines on an even ground."""
    image = Image.new("L", (400, 400), int(random.integers(256)))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        low, high = np.sort(random.integers(0, 400, (2, 2)), axis=0)
        shape = (pen.ellipse, pen.rectangle, pen.line)[random.integers(3)]
        shape((*low.tolist(), *(high + 1).tolist()), fill=int(random.integers(256)))
    return _grey(image)


def _chart(random: np.random.Generator) -> NDArray[np.float32]:
    """Lines, bars or points, on white or on black."""
    with style.context("dark_background" if random.random() < 0.5 else "default"):
        figure = Figure(figsize=(4, 4), dpi=80)
        axes = figure.add_subplot()
        match random.integers(3):
            case 0:
                axes.plot(random.normal(size=(40, 3)).cumsum(axis=0))
            case 1:
                axes.bar(range(8), random.random(8))
            case _:
                axes.scatter(*random.normal(size=(2, 100)))
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    return _grey(Image.open(buffer))


def _page(random: np.random.Generator) -> NDArray[np.float32]:
    """Lines of words, black on white or white on black."""
    ink = 255 * int(random.random() < 0.5)
    image = Image.new("L", (400, 520), 255 - ink)
    pen = ImageDraw.Draw(image)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    for height in range(20, 500, 16):
        words = ("".join(random.choice(letters, random.integers(2, 9))) for _ in range(9))
        pen.text((20, height), " ".join(words)[:60], fill=ink)
    return _grey(image)


SOURCES_TABLE = "input-gate: other sources"
KINDS_TABLE = "input-gate: by kind"
METRICS = "refused", "refused or warned of"
MUST = 0.02
SAMPLE, SEED = 75, 1
"""Images of which altered copies of each kind are made; not the seed of the gate's own."""
CORRUPTED, ELSEWHERE = 200, 450
"""Images that are corrupted, and images of each other source."""
COMMAND = "make benchmark PART=input-gate"
LEARNT = " (a kind the gate learns from)"
GENERATED_ID = ("noise", "blank")
"""Drawn here, but of a kind that the gate learns from."""
Squares = NDArray[np.uint8]


def measure() -> list[Row]:
    """Rows of every task with images and an image encoder."""
    every = map(paths_of, shipped_tasks())
    runs = [Run(paths) for paths in every if has_run("train_image", paths)]
    rows: list[Row] = []
    for run in runs:
        print(f"input-gate: {run.paths.task}", flush=True)
        rows += [*_false_refusals(run), *_elsewhere(run, runs), *_by_kind(run)]
        for other in runs:
            if other.task.synthetic and other is not run:
                title = f"images of {other.paths.task}, no radiographs"
                rows += _rows(run, title, other.sample(run.size, SAMPLE))
    return rows


@dataclass(frozen=True)
class Run:
    """A task's stages up to `train_image`, and its gates fitted without each test part."""

    paths: TaskPaths

    @cached_property
    def task(self) -> Task:
        return load_task(self.paths.task)

    @cached_property
    def params(self) -> Params:
        return for_task(load_params(), self.task)

    @cached_property
    def manifest(self) -> Manifest:
        return load_manifest(self.paths, self.task)

    @cached_property
    def folders(self) -> frozenset[str]:
        """Folders of the sources that its images come from."""
        merged = self.task.source.kind == MERGED
        tasks = members_of(self.task).values() if merged else [self.task]
        return frozenset(task.source.folder for task in tasks)

    @cached_property
    def encoder(self) -> ImageEncoder:
        return load_image_encoder(self.paths.image_encoder)

    @property
    def size(self) -> int:
        return self.encoder.spec.size

    @cached_property
    def pixels(self) -> Squares:
        return open_pixels(self.paths.pixels)

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """Of every image in the pixel cache."""
        return image_embeddings(self.encoder, self.pixels)

    @cached_property
    def gates(self) -> list[tuple[InputGate, NDArray[np.int64]]]:
        """Each gate with the rows of the pixel cache that it has not seen."""
        table = load_split(self.paths)
        parts = resamples(table)
        first, groups = parts[0], table["group"].to_numpy(object)
        every = np.sort(np.concatenate([part.test for part in parts]))
        train, val = (first.train, first.val) if len(parts) == 1 else (every, every[:0])
        images = gate_images(self.manifest, groups, train, val, self.params)
        copies = ood_copies(self.encoder, self.pixels, images.pixel_rows, self.params.fuse)
        unseen = [self._images_of(part.test) for part in parts]
        return [(self._fit(images, copies, rows), rows) for rows in unseen]

    def _fit(self, images: GateImages, copies: Copies, unseen: NDArray[np.int64]) -> InputGate:
        stored = np.flatnonzero(~np.isin(images.pixel_rows, unseen))
        images = images.of(stored)
        embeddings = self.embeddings[images.pixel_rows]
        return fit_input_gate(embeddings, images, copies.of(stored), self.params.fuse.seed)[0]

    def _images_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        found = np.unique(self.manifest.frame["pixel_row"].to_numpy(np.int64)[rows])
        present: NDArray[np.int64] = found[found != ABSENT]
        return present

    def sample(self, size: int, count: int) -> Squares:
        """Some images of the task as another one's encoder takes them."""
        chosen = np.random.default_rng(SEED).permutation(len(self.pixels))[:count]
        return np.stack([fit_square(self.pixels[row] / np.float32(255), size) for row in chosen])


def _false_refusals(run: Run) -> Iterator[Row]:
    """Of held-out images, stored and corrupted, by the gate that has not seen them."""
    found = [_flagged_shares(gate, run.embeddings[rows]) for gate, rows in run.gates]
    yield from _judged(run, "", "held-out images", np.concatenate(found))
    corrupted: list[NDArray[np.bool_]] = []
    for gate, images, random in _some_unseen(run, CORRUPTED):
        copies = np.stack([random_corruption(image, random) for image in images])
        corrupted.append(_flagged_shares(gate, image_embeddings(run.encoder, copies)))
    yield from _judged(run, "", "held-out images, corrupted", np.concatenate(corrupted))


def _some_unseen(run: Run, count: int) -> Iterator[tuple[InputGate, Squares, np.random.Generator]]:
    """Each gate with some images that it has not seen, and random numbers for their copies."""
    share = -(-count // len(run.gates))
    for number, (gate, rows) in enumerate(run.gates):
        random = np.random.default_rng([SEED, number])
        yield gate, run.pixels[np.sort(random.permutation(rows)[:share])], random


def _elsewhere(run: Run, runs: list[Run]) -> Iterator[Row]:
    """Of upright frontal radiographs of other sources, the mean over the gates; the bundle's own
    gate is told of in a report for the model card."""
    reported: dict[str, dict[str, Any]] = {}
    bundled = load_input_gate(run.paths.bundle)
    for other in _other_sources(run, runs):
        embedded = image_embeddings(run.encoder, other.sample(run.size, ELSEWHERE))
        shares = np.mean([_flagged_shares(gate, embedded) for gate, _ in run.gates], axis=0)
        (folder,) = other.folders
        yield from _judged(run, SOURCES_TABLE, f"images of {folder}", shares)
        if bundled is not None:
            reported[folder] = _report_of(_flagged_shares(bundled, embedded))
    if reported:
        digest = bundle_digest(run.paths.bundle)
        content = {"digest": digest, "command": COMMAND, "sources": reported}
        write_json(run.paths.input_gate, content)


def _other_sources(run: Run, runs: list[Run]) -> list[Run]:
    """For each other source of radiographs, the task with most of its images."""
    if run.task.synthetic:
        return []
    largest = {
        other.folders: other
        for other in sorted(runs, key=lambda other: len(other.pixels))
        if not (other.task.synthetic or other.folders & run.folders) and len(other.folders) == 1
    }
    return list(largest.values())


def _report_of(flagged: NDArray[np.bool_]) -> dict[str, Any]:
    """Shares that are rejected, and at least warned of, with their intervals."""
    found: dict[str, Any] = {"n": len(flagged)}
    for name, share in zip(("rejected", "flagged"), flagged.mean(axis=0).tolist(), strict=True):
        low, high = exact_interval(share, len(flagged))
        found[name] = {"value": rounded(share), "ci95": [rounded(low), rounded(high)]}
    return found


def _judged(run: Run, table: str, row: str, shares: NDArray[Any]) -> Iterator[Row]:
    """Rows of images (N, 2) that are not to be refused."""
    for metric, value, must in zip(
        METRICS, shares.mean(axis=0).tolist(), (MUST, None), strict=True
    ):
        yield Row(
            table=table,
            task=run.paths.task,
            row=row,
            metric=metric,
            value=value,
            ci95=exact_interval(value, len(shares)),
            must=must,
            ceiling=True,
            n=len(shares),
            seed=run.params.fuse.seed if not table else SEED,
        )


def _by_kind(run: Run) -> Iterator[Row]:
    """Of altered held-out images by the gates that have not seen them, of others by every gate."""
    found: dict[str, list[NDArray[np.bool_]]] = defaultdict(list)
    for gate, images, random in _some_unseen(run, SAMPLE):
        for kind, copies in _ood_copies(images, random).items():
            found[kind].append(_flagged_shares(gate, image_embeddings(run.encoder, copies)))
    for kind, flagged in found.items():
        every = np.concatenate(flagged)
        yield from _two(run, kind, every.mean(axis=0).tolist(), len(every))
    for kind, pictures in ood_images().items():
        kind += LEARNT if kind in GENERATED_ID else ""
        yield from _rows(run, kind, np.stack([fit_square(p, run.size) for p in pictures]))


def _ood_copies(images: Squares, random: np.random.Generator) -> dict[str, Squares]:
    created = {
        f"{kind.replace('_', ' ')}{LEARNT}": np.stack([alter(image, random) for image in images])
        for kind, alter in OOD_COPIES.items()
    }
    created["cropped to 50 to 70 %"] = np.stack([cropped(f, random, (0.5, 0.7)) for f in images])
    created["mirrored (still a radiograph; situs inversus cannot be told)"] = images[..., ::-1]
    return created


def _rows(run: Run, kind: str, squares: Squares) -> Iterator[Row]:
    """Of pictures that no gate has seen, the mean over the gates."""
    embedded = image_embeddings(run.encoder, squares)
    rates = np.mean([_flagged_shares(gate, embedded).mean(axis=0) for gate, _ in run.gates], axis=0)
    yield from _two(run, kind, rates.tolist(), len(squares))


def _two(run: Run, kind: str, rates: list[float], count: int) -> Iterator[Row]:
    facts = {"table": KINDS_TABLE, "task": run.paths.task, "row": kind, "n": count, "seed": SEED}
    for metric, value in zip(METRICS, rates, strict=True):
        yield Row(metric=metric, value=value, **facts)


def _flagged_shares(gate: InputGate, embeddings: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Refused, and refused or warned of: (N, 2)."""
    found = [(d is not None and d.refused, d is not None) for d in gate.check(embeddings)]
    return np.array(found).reshape(-1, 2)
