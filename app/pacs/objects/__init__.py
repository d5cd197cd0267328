"""DICOM objects of one answered radiograph: pure functions of its header and the answer."""

from app.pacs.objects.build import SOP_CLASSES, ObjectFile, build_not_analysed, build_objects
from app.pacs.objects.evidence import SOURCES
from app.pacs.objects.result import Region, Result
from app.pacs.settings import Kind

__all__ = [
    "SOP_CLASSES",
    "SOURCES",
    "Kind",
    "ObjectFile",
    "Region",
    "Result",
    "build_not_analysed",
    "build_objects",
]
