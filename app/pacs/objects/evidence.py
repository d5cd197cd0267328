"""The source as evidence: what an object takes over from its header, and what it adds itself.

Patient and study are those of the source, decoded and written in UTF-8 again. What the source lacks
stays empty if it must be present (type 2) and absent if not; a value that its VR forbids counts as
lacking, but for the identifiers by which an archive files the object, which are never changed.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TypedDict, TypeVar

from highdicom import SOPClass
from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.valuerep import PersonName, validate_value

from app.pacs.objects.prepared import Varying, elements_of
from app.pacs.objects.sop_classes import SOURCES
from cxr_mm import __version__
from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.attributes import code_string

MANUFACTURER = "cxr-mm"
CHARACTER_SET = "ISO_IR 192"
UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
UNDECODABLE = (
    *(NotImplementedError, ValueError, TypeError, KeyError, AttributeError, OverflowError),
    BytesLengthException,
)
"""What pydicom raises where an element means nothing: as if it were not there."""
LAST_GROUP = 0x2050
"""Of the attributes that the objects look at."""
GROUPS = (0x0008, 0x0010, 0x0012, 0x0020, 0x0032, 0x0038, 0x0040)
"""Groups with the attributes of patient and study."""
UID_FORM = re.compile(r"[0-9.]{1,64}")
"""What can be referred to; archives know UIDs with leading zeros too."""
IDENTIFIERS = frozenset({"PatientID", "PatientName", "AccessionNumber", "StudyInstanceUID"})
EMPTY_IF_ABSENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("AccessionNumber", "StudyID", "ReferringPhysicianName"),
)
"""Type 2 attributes of the modules Patient and General Study."""
DOCUMENTS = ("SR", "DOC")
"""Modalities whose series say nothing of a body part."""
SEXES, SIDES = ("M", "F", "O"), ("L", "R")
LONGEST_SIDE = 2**16 - 1
"""Pixels that Rows and Columns can say (VR US)."""
LONG_STRING = 64
"""Characters of the VR LO."""


def header_of(source: Dataset) -> Dataset:
    """The elements that can be decoded, without pixels and overlays; the source is not changed."""
    header = Dataset()
    for tag in sorted(source.keys()):  # iterating over elements would decode all
        if tag.group <= LAST_GROUP:
            with suppress(*UNDECODABLE):
                element = source[tag]
                for item in element.value if element.VR == "SQ" else ():
                    item.decode()
                header.add(element)
    return header


@dataclass(frozen=True)
class SourceImage:
    """What identifies the source and the shape of its image, and nothing of its patient."""

    sop_class: str
    instance: Varying[str]
    study: Varying[str]
    series: Varying[str]
    rows: Varying[int]
    columns: Varying[int]

    def reference(self) -> Dataset:
        """As highdicom takes a source: patient and study are empty."""
        reference = Dataset()
        reference.SOPClassUID, reference.SOPInstanceUID = self.sop_class, self.instance
        reference.StudyInstanceUID, reference.SeriesInstanceUID = self.study, self.series
        reference.Rows, reference.Columns, reference.SamplesPerPixel = self.rows, self.columns, 1
        for keyword in EMPTY_IF_ABSENT:
            setattr(reference, keyword, "")
        return reference

    def item(self) -> Dataset:
        """Item of a sequence that refers to the source."""
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = self.sop_class, self.instance
        return item


def image_of(header: Dataset) -> SourceImage:
    """The image of a header.

    Raises:
        RadiographError: the header does not say which object it is of, or its size; or it is of
            none of the classes `SOURCES`.
    """
    for keyword in (*UIDS, "Rows", "Columns"):
        value = header.get(keyword)
        valid = isinstance(value, int) and 0 < value <= LONGEST_SIDE
        if keyword in UIDS:  # a number, by another VR than UI, may look like one
            valid = isinstance(value, str) and bool(UID_FORM.fullmatch(value))
        if not valid:
            raise RadiographError(
                "the header does not state it, or in no valid form",
                field=keyword,
                remedy="Send the radiograph again from its archive",
            )
    if header.SOPClassUID not in SOURCES:
        raise RadiographError(
            "this class of objects is not answered",
            field="SOPClassUID",
            remedy="Send radiographs of the classes CR and DX",
        )
    sop_class, instance, study, series = (str(header[uid].value) for uid in UIDS)
    return SourceImage(sop_class, instance, study, series, header.Rows, header.Columns)


@dataclass(frozen=True)
class Evidence:
    """One radiograph, as every object of it takes it over.

    Args:
        header: what can be decoded of its header.
        image: which it is.
        patient: attributes of patient and study that are valid, decoded; those that must be
            present are.
    """

    header: Dataset
    image: SourceImage
    patient: Dataset

    @cached_property
    def encoded(self) -> dict[int, bytes]:
        """Elements of patient and study."""
        return elements_of(self.patient)

    def added(self, made_at: datetime, *, dates_content: bool, body_part: bool) -> Dataset:
        """What an object says besides: times, and what was examined.

        Args:
            made_at: when the answer was given.
            dates_content: whether it dates its content, which presentation states do not.
            body_part: whether its series may say what was examined.
        """
        added, date, time = Dataset(), f"{made_at:%Y%m%d}", f"{made_at:%H%M%S}"
        added.InstanceCreationDate, added.InstanceCreationTime = date, time
        added.SeriesDate, added.SeriesTime = date, time
        if dates_content:
            added.ContentDate, added.ContentTime = date, time
        if body_part:
            _add_body_part(added, self.header)
        return added


def evidence_of(source: Dataset) -> Evidence:
    """The evidence of a radiograph; its data set is not changed.

    Raises:
        RadiographError: as `image_of`.
    """
    header = header_of(source)
    return Evidence(header, image_of(header), _Patient(_readable(header)))


Built = TypeVar("Built", bound=SOPClass)


def complete(built: Built, evidence: Evidence, made_at: datetime) -> Built:
    """Give an object its patient, study, character set and times; it is returned.

    Args:
        built: changed in place.
        evidence: of the radiograph.
        made_at: when the answer was given.
    """
    built.update(evidence.patient)
    documents, dated = built.Modality in DOCUMENTS, "ContentDate" in built
    built.update(evidence.added(made_at, dates_content=dated, body_part=not documents))
    date_equipment(built, moment_of(made_at))
    return built


def date_equipment(built: Dataset, moment: str) -> None:
    """Say when the equipment contributed that highdicom has listed."""
    for item in built.get("ContributingEquipmentSequence", ()):
        if "ContributionDateTime" in item:
            item.ContributionDateTime = moment


def moment_of(made_at: datetime) -> str:
    """Date and time (VR DT)."""
    return f"{made_at:%Y%m%d%H%M%S}"


class Equipment(TypedDict):
    """Attributes of the General Equipment module, as highdicom names them."""

    manufacturer: str
    manufacturer_model_name: str
    software_versions: str
    device_serial_number: str


def equipment(model: str, digest: str) -> Equipment:
    """The model as a device: its name, the version of this program, its digest."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": long_string(model or MANUFACTURER),
        "software_versions": __version__,
        "device_serial_number": long_string(digest or __version__),
    }


def long_string(text: str) -> str:
    """The text on one line, as long as the VR LO allows, without its separator."""
    line = " ".join(text.replace("\\", "/").split())
    return line if len(line) <= LONG_STRING else f"{line[: LONG_STRING - 3]}..."


def _add_body_part(built: Dataset, source: Dataset) -> None:
    """Say what was examined, and of which side (type 2C: of a paired part, or an unknown one)."""
    part, side = code_string(source, "BodyPartExamined"), code_string(source, "Laterality")
    if part and _is_valid(source["BodyPartExamined"]):
        built.BodyPartExamined = part
    if side in SIDES or not part:
        built.Laterality = side if side in SIDES else ""


class _Patient(SOPClass):  # type: ignore[misc]
    """Attributes of patient and study alone, taken over as highdicom does."""

    def __init__(self, source: Dataset) -> None:
        Dataset.__init__(self)  # not that of an object
        self.SpecificCharacterSet = CHARACTER_SET
        self.copy_patient_and_study_information(source)
        for keyword in EMPTY_IF_ABSENT:
            if keyword not in self:
                setattr(self, keyword, "")


def _readable(source: Dataset) -> Dataset:
    """Elements of the source with valid values, decoded, without private ones and pixels."""
    result = Dataset()
    for element in source:
        if element.tag.group not in GROUPS:
            continue
        if element.keyword in IDENTIFIERS or _is_valid(element):
            result.add(_decoded(element))
    return result


def _is_valid(element: DataElement) -> bool:
    if not element.keyword or dictionary_VR(element.tag) != element.VR:
        return False
    if element.keyword == "PatientSex":
        return element.value in SEXES
    if element.VR == "SQ":
        return all(_is_valid(inner) for item in element.value for inner in item)
    values = element.value if element.VM > 1 else [element.value]
    try:
        for value in values:
            if value is not None:
                validate_value(element.VR, value, config.RAISE)
    except (ValueError, TypeError):
        return False
    return True


def _decoded(element: DataElement) -> DataElement:
    """The element with text that is no longer bound to the source's character set."""
    if element.VR == "PN":
        names = element.value if element.VM > 1 else [element.value]
        decoded = [PersonName(str(name or "")) for name in names]
        return DataElement(element.tag, "PN", decoded if len(decoded) > 1 else decoded[0])
    if element.VR == "SQ":
        return DataElement(element.tag, "SQ", [_decoded_item(item) for item in element.value])
    return DataElement(element.tag, element.VR, element.value)


def _decoded_item(item: Dataset) -> Dataset:
    result = Dataset()
    for element in item:
        if element.keyword != "SpecificCharacterSet":
            result.add(_decoded(element))
    return result
