"""Headers of received objects, read in a sandboxed process: what a peer sent may be hostile.

The process hands back JSON (PS3.18 F.2) without pixels, private elements and long values, of which
the node makes a data set again.
"""

import json
from pathlib import Path
from typing import Any, Self

import pydicom
from pydicom.dataset import Dataset

from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.dicom import UNREADABLE
from cxr_mm.imaging.sandbox import MIB, Message, ProcessLimits, Worker

LONGEST_VALUE = 1 << 16
"""Bytes of an element beyond which it is left out."""
LIMITS = ProcessLimits(seconds=20.0, memory=1024 * MIB)


class HeaderReader:
    """Reads headers, one at a time; safe for threads."""

    def __init__(self) -> None:
        self._worker = Worker(f"{__name__}:read", LIMITS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def read(self, path: Path, name: str) -> Dataset:
        """Read the header of a file.

        Args:
            path: the file.
            name: how errors call it.

        Raises:
            RadiographError: it cannot be read.
        """
        return self._worker.call(Message({"path": str(path), "name": name}), _dataset)


def read(request: Message) -> Message:
    """Header of the file that a request names; called in the sandboxed process."""
    try:
        dataset = pydicom.dcmread(request.fields["path"], stop_before_pixels=True)
        dataset.remove_private_tags()
        fields = _plain(dataset)
    except UNREADABLE as error:
        # Not chained: these messages may quote the header, names included.
        raise RadiographError(
            f"the header cannot be read ({type(error).__name__})",
            field=request.fields["name"],
            remedy="Export the image again from its archive",
        ) from None
    return Message({"header": fields})


def _plain(dataset: Dataset) -> dict[str, Any]:
    """Each element that can be written as JSON; one that cannot is left out alone."""
    found = {}
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag].to_json_dict(LONGEST_VALUE, None)
            if len(json.dumps(element)) <= LONGEST_VALUE:
                found[f"{tag:08X}"] = element
        except UNREADABLE:
            continue
    return found


def _dataset(message: Message) -> Dataset:
    """The data set of a header.

    Raises:
        LookupError, TypeError, ValueError: it is none.
    """
    dataset: Dataset = Dataset.from_json(message.fields["header"])
    return dataset
