"""Headers of radiographs, ordinary and odd, and answers from which objects are built."""

import io
from datetime import datetime

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from app.pacs.objects import build
from app.pacs.objects.result import Region, Result
from cxr_mm.core.prediction import Answer, FindingPrediction, Prediction
from cxr_mm.core.study import Study
from cxr_mm.core.task import load_task

MADE_AT = datetime(2026, 3, 4, 5, 6, 7)
DIGEST = "0123456789abcdef" * 4
ROWS, COLUMNS = 60, 40


def computed_radiograph(**changes):
    """A valid CR header with its pixels; None as a change takes the attribute out."""
    source = Dataset()
    source.SOPClassUID = ComputedRadiographyImageStorage
    source.SOPInstanceUID, source.StudyInstanceUID = "1.2.3.4.1", "1.2.3.4.2"
    source.SeriesInstanceUID = "1.2.3.4.3"
    source.SpecificCharacterSet = "ISO_IR 100"
    source.PatientName, source.PatientID = "Müller^Änne", "P1"
    source.PatientBirthDate, source.PatientSex = "19700203", "F"
    source.StudyDate, source.StudyTime, source.StudyID = "20260304", "040506", "S1"
    source.AccessionNumber, source.ReferringPhysicianName = "A1", ""
    source.StudyDescription = "Thorax"
    source.Modality, source.Manufacturer, source.SeriesNumber = "CR", "Maker", 1
    source.BodyPartExamined, source.ViewPosition, source.InstanceNumber = "CHEST", "PA", 1
    source.PatientOrientation = ["L", "F"]
    source.SamplesPerPixel, source.PhotometricInterpretation = 1, "MONOCHROME2"
    source.Rows, source.Columns = ROWS, COLUMNS
    source.BitsAllocated, source.BitsStored, source.HighBit = 16, 12, 11
    source.PixelRepresentation = 0
    source.WindowCenter, source.WindowWidth = 2048, 4096
    source.PixelData = np.arange(ROWS * COLUMNS, dtype=np.uint16).tobytes()
    return changed(source, changes)


def digital_radiograph(**changes):
    """A DX header for presentation, as far as the objects look."""
    source = computed_radiograph(
        SOPClassUID=DigitalXRayImageStorageForPresentation,
        Modality="DX",
        SpecificCharacterSet="ISO_IR 192",
        PresentationLUTShape="IDENTITY",
        RescaleIntercept=0,
        RescaleSlope=1,
        RescaleType="US",
        BurnedInAnnotation="NO",
    )
    return changed(source, changes)


def changed(source, changes):
    for keyword, value in changes.items():
        if value is None:
            del source[keyword]
        else:
            setattr(source, keyword, value)
    return stored(source)


def stored(dataset):
    """As it comes back from its file."""
    if "file_meta" not in dataset.__dict__:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(stream.getvalue()))


def build_objects(source, result, kinds, made_at):
    """The objects as whoever gets their files reads them."""
    made = build.build_objects(source, result, kinds, made_at)
    return {kind: read(file) for kind, file in made.items()}


def build_not_analysed(source, reason, made_at):
    return read(build.build_not_analysed(source, reason, made_at))


def read(file):
    found = pydicom.dcmread(io.BytesIO(file.data))
    assert found.SOPInstanceUID == found.file_meta.MediaStorageSOPInstanceUID == file.uid
    return found


SOURCES = {
    "cr": computed_radiograph,
    "dx": digital_radiograph,
    "no date": lambda: computed_radiograph(StudyDate=None, StudyTime=None, StudyID=None),
    "utf-8": lambda: computed_radiograph(
        SpecificCharacterSet="ISO_IR 192", PatientName="Łukasz^Żółć=山田^太郎"
    ),
    "iso 2022": lambda: computed_radiograph(
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "no patient": lambda: digital_radiograph(PatientID="", PatientName="", PatientSex=None),
    "one name": lambda: computed_radiograph(PatientName="Müller"),
    "monochrome1": lambda: digital_radiograph(
        PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"
    ),
    "oblong pixels": lambda: digital_radiograph(ImagerPixelSpacing=[0.2, 0.1]),
    "no window": lambda: computed_radiograph(WindowCenter=None, WindowWidth=None),
    "no charset": lambda: computed_radiograph(SpecificCharacterSet=None, PatientName="Mueller^A"),
}


def finding(name, **changes):
    values = {
        "finding": name,
        "title": name.title(),
        "probability": 0.1234567890123456,
        "threshold": 1 / 3,
        "positive": False,
        "certainty": "absent",
    }
    return FindingPrediction(**(values | changes))


def result_of(*findings, task="synthetic", **changes):
    prediction = Prediction(
        study_id="1.2.3.4.1",
        task=task,
        model="synthetic",
        digest=DIGEST,
        modalities=("image", "tabular"),
        findings=findings,
        warnings=("The image is blurred; ≥ 3 µm",),
        synthetic=True,
    )
    values = {
        "answer": Answer(Study("1.2.3.4.1"), prediction, clinical={}),
        "task": load_task(task),
        "digest": DIGEST,
        "configuration": "c0ffee",
    }
    return Result(**(values | changes))


def region(finding="effusion"):
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[10:20, 5:15] = True
    return Region.of_mask(finding, "Grad-CAM", mask)


def two_findings():
    return result_of(
        finding("consolidation"),
        finding("effusion", probability=0.9999, positive=True, certainty="uncertain"),
        region=region(),
        map_image=np.full((ROWS, COLUMNS, 3), 90, np.uint8),
        map_title="Grad-CAM: Effusion",
    )


def one_finding():
    """Of a task without a public code."""
    return result_of(
        finding("pneumonia", probability=0.75, positive=True, certainty="present"),
        task="pneumonia_sites",
        region=region("pneumonia"),
    )
