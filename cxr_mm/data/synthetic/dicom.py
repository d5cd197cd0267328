"""Synthetic studies as DICOM files, to try a node or an archive with."""

from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from cxr_mm.core.files import atomic_directory
from cxr_mm.data.synthetic.phantom import draw_image
from cxr_mm.data.synthetic.population import Case, SynthesisSpec, absent_modalities, draw_cases
from cxr_mm.data.synthetic.writer import DESCRIPTION, study_id

BITS = 12


def write_dicom(out: Path, spec: SynthesisSpec, at: datetime) -> list[Path]:
    """Write the studies that have an image as DX files, whole or not at all.

    The same specification gives the same UIDs, so that an archive that has a file already knows it.

    Args:
        out: folder to write `STUDY.dcm` into; an existing one is replaced.
        spec: how many studies, and the dials.
        at: date and time of the studies.

    Returns:
        The files, in the order of the studies.
    """
    cases = [case for case in draw_cases(spec) if not absent_modalities(spec, case)["image"]]
    with atomic_directory(out) as aside:
        for case in cases:
            dataset = as_dicom(spec, case, at)
            dataset.save_as(aside / _name(spec, case), enforce_file_format=True)
    return [out / _name(spec, case) for case in cases]


def as_dicom(spec: SynthesisSpec, case: Case, at: datetime) -> Dataset:
    """A study's image as a DX image for presentation, 12 bits; the header says synthetic."""
    name, patient = study_id(spec, case), case.patient
    dataset = _of_class(name)
    dataset.PatientID = f"syn{spec.seed}-P{patient.index:05d}"
    dataset.PatientName = f"Phantom^{patient.index}"
    dataset.PatientSex = "M" if patient.male else "F"
    dataset.PatientAge = f"{round(patient.age):03d}Y"
    dataset.PatientBirthDate = ""
    dataset.AccessionNumber, dataset.StudyID = name[:16], str(case.index)
    dataset.StudyDate = dataset.ContentDate = f"{at:%Y%m%d}"
    dataset.StudyTime = dataset.ContentTime = f"{at:%H%M%S}"
    dataset.StudyDescription, dataset.SeriesDescription = "Chest", "SYNTHETIC phantom"
    dataset.ImageComments, dataset.ReferringPhysicianName = DESCRIPTION, ""
    dataset.BodyPartExamined, dataset.ViewPosition = "CHEST", case.illness.view
    set_pixels(dataset, draw_image(spec, case)[0])
    return dataset


def _name(spec: SynthesisSpec, case: Case) -> str:
    return f"{study_id(spec, case)}.dcm"


def _of_class(name: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = _uid(name, "image")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = _uid(name, "study"), _uid(name, "series")
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.Modality, dataset.PresentationIntentType = "DX", "FOR PRESENTATION"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _uid(name: str, level: str) -> str:
    return str(generate_uid(entropy_srcs=["cxr_mm phantom", name, level]))


def set_pixels(dataset: Dataset, pixels: NDArray[np.uint8]) -> None:
    """Replace the pixels of a data set by a picture (H, W), in 12 bits of 16."""
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, BITS, BITS - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = (pixels.astype("<u2") << (BITS - 8)).tobytes()
