"""Pictures that are no chest radiograph, by kind: from installed packages, or drawn.

None of them teaches a film gate. Hands, laterals and other radiographs come with no package.
"""

import importlib.util
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cxr_mm.data.radiograph import read_radiograph

Picture = NDArray[np.float32]
"""float32 (H, W) in [0, 1]."""
CROPS, DRAWN = 4, 12
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
"""Files of pydicom's own tests."""


def foreign_pictures(seed: int = 0) -> dict[str, list[Picture]]:
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
        "drawings": _drawn(_drawing, random),
        "charts": _drawn(_chart, random),
        "pages of text": [*_files(PAGES), *_drawn(_page, random)],
        **{kind: list(_slices(names)) for kind, names in SLICES.items()},
        "noise": _drawn(lambda r: r.random((256, 256)), random),
        "blank": [np.full((256, 256), grey, np.float32) for grey in np.linspace(0, 1, 6)],
    }
    return {kind: pictures for kind, pictures in kinds.items() if pictures}


def _folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _paths(place: str, names: str) -> Iterator[Path]:
    """Those files that are there, of a folder of a package."""
    package, _, below = place.partition("/")
    folder = _folder(package)
    for name in names.split():
        if folder and (folder / below / name).is_file():
            yield folder / below / name


def _files(wanted: dict[str, str]) -> Iterator[Picture]:
    for place, names in wanted.items():
        for path in _paths(place, names):
            with Image.open(path) as image:
                yield np.asarray(image.convert("L"), np.float32) / np.float32(255)


def _slices(names: str) -> Iterator[Picture]:
    for path in _paths("pydicom/data/test_files", names):
        yield read_radiograph(path).pixels


def _crop(picture: Picture, random: np.random.Generator) -> Picture:
    size = [round(side * random.uniform(0.4, 0.8)) for side in picture.shape]
    top, left = (random.integers(0, s - n + 1) for s, n in zip(picture.shape, size, strict=True))
    return picture[top : top + size[0], left : left + size[1]]


def _drawn(
    draw: Callable[[np.random.Generator], NDArray[np.generic]], random: np.random.Generator
) -> list[Picture]:
    return [np.asarray(draw(random), np.float32) for _ in range(DRAWN)]


def _drawing(random: np.random.Generator) -> NDArray[np.float32]:
    """Ellipses, boxes and lines on an even ground."""
    image = Image.new("L", (400, 400), int(random.integers(256)))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        low, high = np.sort(random.integers(0, 400, (2, 2)), axis=0)
        shape = (pen.ellipse, pen.rectangle, pen.line)[random.integers(3)]
        shape((*low.tolist(), *(high + 1).tolist()), fill=int(random.integers(256)))
    return np.asarray(image, np.float32) / np.float32(255)


def _chart(random: np.random.Generator) -> NDArray[np.float32]:
    """Lines, bars or points, on white or on black."""
    with style.context("dark_background" if random.random() < 0.5 else "default"):
        figure = Figure(figsize=(4, 4), dpi=80)
        axes = figure.add_subplot()
        kind = random.integers(3)
        if kind == 0:
            axes.plot(random.normal(size=(40, 3)).cumsum(axis=0))
        elif kind == 1:
            axes.bar(range(8), random.random(8))
        else:
            axes.scatter(*random.normal(size=(2, 100)))
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("L"), np.float32) / np.float32(255)


def _page(random: np.random.Generator) -> NDArray[np.float32]:
    """Lines of words, black on white or white on black."""
    ink = 255 * int(random.random() < 0.5)
    image = Image.new("L", (400, 520), 255 - ink)
    pen = ImageDraw.Draw(image)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    for height in range(20, 500, 16):
        words = ("".join(random.choice(letters, random.integers(2, 9))) for _ in range(9))
        pen.text((20, height), " ".join(words)[:60], fill=ink)
    return np.asarray(image, np.float32) / np.float32(255)
