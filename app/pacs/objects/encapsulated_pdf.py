"""Encapsulated PDF: the case report as a document of the study."""

from datetime import datetime

from highdicom import SOPClass
from highdicom.sr import CodedConcept
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from app.pacs.objects import codes
from app.pacs.objects.evidence import Evidence, complete, equipment, long_string
from app.pacs.objects.result import Result
from app.pacs.objects.uids import derived_uid

SERIES_NUMBER = 9005


def encapsulated_pdf(evidence: Evidence, result: Result, uid: str, made_at: datetime) -> SOPClass:
    """Build the document of one answer.

    Args:
        evidence: of the radiograph.
        result: what is told of it; without pictures the document is the text alone.
        uid: SOP instance UID of the document.
        made_at: when the answer was given.
    """
    from app.pacs.objects.case_report import case_report  # fpdf2, which few nodes need

    image, title = evidence.image, f"AI result: {result.task.title}"
    built = SOPClass(
        study_instance_uid=image.study,
        series_instance_uid=derived_uid(uid, "series"),
        series_number=SERIES_NUMBER,
        series_description=long_string(title),
        sop_instance_uid=uid,
        sop_class_uid=EncapsulatedPDFStorage,
        instance_number=1,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **equipment(result.answer.prediction.model, result.digest),
    )
    built.ConversionType = "WSD"
    built.AcquisitionDateTime = ""
    # The pages name no one; but the picture on them may show what the source has burnt in.
    built.BurnedInAnnotation = "NO" if evidence.header.get("BurnedInAnnotation") == "NO" else "YES"
    built.DocumentTitle = title
    built.ConceptNameCodeSequence = [CodedConcept.from_code(codes.REPORT)]
    built.VerificationFlag = "UNVERIFIED"
    built.SourceInstanceSequence = [image.item()]
    built.CodingSchemeIdentificationSequence = [codes.private_scheme()]
    built.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document = case_report(result, made_at)
    built.EncapsulatedDocumentLength = len(document)
    built.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    return complete(built, evidence, made_at)
