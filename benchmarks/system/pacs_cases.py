"""Cases of the part `pacs` in which decoding or the network is dearer: radiographs as archives
compress them, and bundles with other networks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gdcm
import pydicom
import torch
from pydicom.dataset import Dataset

from benchmarks.system.pacs_peers import file_of
from cxr_mm.core.errors import StageError
from cxr_mm.models.bundle import Bundle, load_bundle, save_bundle
from cxr_mm.models.fusion import Fusion, Part
from cxr_mm.models.image_encoder import build_image_encoder


@dataclass(frozen=True)
class Compression:
    """A lossless transfer syntax.

    Args:
        syntax: gdcm's name of it.
        option: of `storescu`, which proposes it.
    """

    syntax: str
    option: str


COMPRESSIONS: Mapping[str, Compression] = {
    "JPEG lossless (SV1)": Compression("JPEGLosslessProcess14_1", "-xs"),
    "JPEG 2000 lossless": Compression("JPEG2000Lossless", "-xv"),
}
NETWORKS: Sequence[tuple[str, int]] = (("tf_efficientnet_lite0", 224), ("resnet50", 224))
"""Backbone, and side of its input in pixels: that of the tasks of real radiographs, and what most
published systems use."""


def compressed(images: Sequence[Dataset], compression: Compression, folder: Path) -> list[Dataset]:
    """The same images in another transfer syntax; a folder is made for their files."""
    folder.mkdir()
    return [
        _compressed(file_of(image, folder / f"{number}.dcm"), compression.syntax)
        for number, image in enumerate(images)
    ]


def _compressed(file: str, syntax: str) -> Dataset:
    """Compress a file in place.

    Raises:
        StageError: gdcm cannot.
    """
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(file)
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    is_read = reader.Read()
    change.SetInput(reader.GetImage())
    is_changed = is_read and change.Change()
    writer.SetFileName(file)
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutputAsPixmap())
    if not (is_changed and writer.Write()):
        raise StageError("gdcm cannot write it", field=syntax, remedy="Install python-gdcm again")
    return pydicom.dcmread(file)


def other_networks(folder: Path, bundle: Path) -> Iterator[tuple[str, Path]]:
    """Title and folder of bundles as one is, each with another network of random weights, which
    take as long as any; no input gate, which would reject what they make of an image."""
    for backbone, size in NETWORKS:
        path = folder / f"{backbone}-{size}"
        save_bundle(_with_network(load_bundle(bundle), backbone, size), path)
        yield f"{backbone} at {size} px", path


def _with_network(bundle: Bundle, backbone: str, size: int) -> Bundle:
    assert bundle.image_encoder is not None
    spec = bundle.image_encoder.spec
    torch.manual_seed(0)
    encoder = build_image_encoder(
        backbone, size, spec.outputs, weights="none", pool=spec.pool, mirror=spec.mirror
    ).eval()
    parts = tuple(Part(length=length) for length in encoder.spec.parts)
    fusion = bundle.fusion.spec
    fusion = fusion.model_copy(update={"parts": {**fusion.parts, "image": parts}})
    return replace(
        bundle,
        size=size,
        image_encoder=encoder,
        fusion=Fusion(fusion).eval(),
        gate=None,
        baseline_image=None,
    )
