"""Every object of one radiograph, with its UID."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import Dataset

from app.pacs.objects.encapsulated_pdf import encapsulated_pdf
from app.pacs.objects.evidence import Evidence, evidence_of
from app.pacs.objects.prepared import file_of
from app.pacs.objects.presentation_state import presentation_state
from app.pacs.objects.result import Result
from app.pacs.objects.secondary_capture import secondary_capture
from app.pacs.objects.segmentation import segmentation
from app.pacs.objects.structured_report import not_analysed_report, structured_report
from app.pacs.objects.uids import derived_uid
from app.pacs.settings import Kind

CONTENTS: Mapping[Kind, str] = {
    "sr": "TID 1500 with one group of measurements for each finding, algorithm (TID 4019), inputs, "
    "warnings; unverified and preliminary",
    "gsps": "greyscale transformation of the radiograph, outline of the strongest region, text",
    "sc": "colour picture with map and colour bar; numbers, model and notice burnt in",
    "seg": "strongest region, a bit for each pixel of the radiograph, if a faithful method has one",
    "pdf": "case report: image, map, findings, operating points, inputs, warnings, model, notice",
}
"""What each holds, for the conformance statement."""
Encoded = Callable[[Evidence, Result, str, datetime], dict[int, bytes]]
PREPARED: Mapping[Kind, Encoded] = {
    "sr": structured_report,
    "gsps": presentation_state,
    "sc": secondary_capture,
}
"""What encodes objects that a library has built once."""
BUILDERS: Mapping[Kind, Callable[[Evidence, Result, str, datetime], Dataset]] = {
    "seg": segmentation,
    "pdf": encapsulated_pdf,
}
"""What builds the others anew."""


@dataclass(frozen=True)
class ObjectFile:
    """An object as its file (PS3.10): SOP instance UID, and every byte."""

    uid: str
    data: bytes


def build_objects(
    source: Dataset, result: Result, kinds: Sequence[Kind], made_at: datetime
) -> dict[Kind, ObjectFile]:
    """Build the objects of one answer in explicit VR little endian.

    The same source, digest and configuration give the same UIDs. Without a region there is no
    segmentation; FHIR is no object.

    Args:
        source: header of the radiograph; pixels are not needed, and nothing is changed.
        result: what is told of it.
        kinds: which objects.
        made_at: when the answer was given, in local time.

    Raises:
        RadiographError: the header does not say which object it is of, or its size.
    """
    evidence, found = evidence_of(source), dict[Kind, ObjectFile]()
    for kind in kinds:
        uid = derived_uid(evidence.image.instance, result.digest, result.configuration, kind)
        if kind in PREPARED:
            found[kind] = ObjectFile(uid, file_of(PREPARED[kind](evidence, result, uid, made_at)))
        elif kind in BUILDERS and (kind != "seg" or result.region is not None):
            found[kind] = _file(BUILDERS[kind](evidence, result, uid, made_at))
    return found


def build_not_analysed(source: Dataset, reason: str, made_at: datetime) -> ObjectFile:
    """Build the structured report that a radiograph was not analysed, and why.

    Another reason gives another UID.

    Args:
        source: header of the radiograph.
        reason: for people, one sentence without anything that names the patient.
        made_at: when that was decided, in local time.

    Raises:
        RadiographError: the header does not say which object it is of, or its size.
    """
    evidence = evidence_of(source)
    uid = derived_uid(evidence.image.instance, "not analysed", reason)
    return _file(not_analysed_report(evidence, reason, uid, made_at))


def _file(built: Dataset) -> ObjectFile:
    stream = io.BytesIO()
    built.save_as(stream, enforce_file_format=True)
    return ObjectFile(str(built.SOPInstanceUID), stream.getvalue())
