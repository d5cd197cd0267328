"""SOP classes of what is answered and of the answers, without the libraries that build these."""

from collections.abc import Mapping

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from app.pacs.settings import Kind

SOURCES = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
)
"""SOP classes of radiographs that are answered."""
SOP_CLASSES: Mapping[Kind, UID] = {
    "sr": Comprehensive3DSRStorage,
    "gsps": GrayscaleSoftcopyPresentationStateStorage,
    "sc": SecondaryCaptureImageStorage,
    "seg": SegmentationStorage,
    "pdf": EncapsulatedPDFStorage,
}
