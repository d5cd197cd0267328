"""Structured report: Comprehensive 3D SR by TID 1500, and the report of what was not analysed.

Each finding is one measurement group (TID 1501, or 1410) with its algorithm (TID 4019). Inputs,
warnings and the notice are of the whole answer: container Qualitative Evaluations of TID 1500.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

from app.pacs.objects import codes
from app.pacs.objects.evidence import MANUFACTURER, complete, equipment, long_string, reference_of
from app.pacs.objects.result import Region, Result
from app.pacs.objects.uids import derived_uid
from cxr_mm import __version__
from cxr_mm.core.prediction import NOTICE, SYNTHETIC, FindingPrediction

SERIES_NUMBER = 9001
CONTAINS = sr.RelationshipTypeValues.CONTAINS


def structured_report(
    source: Dataset, result: Result, uid: str, made_at: datetime
) -> sr.Comprehensive3DSR:
    """Build the report of one answer.

    Args:
        source: header of the radiograph.
        result: what is told of it.
        uid: SOP instance UID of the report.
        made_at: when the answer was given.
    """
    image, findings = reference_of(source), result.answer.prediction.findings
    content = sr.MeasurementReport(
        observation_context=_observer(result.answer.prediction.model, result.digest),
        procedure_reported=codes.IMAGING_PROCEDURE,
        imaging_measurements=[_finding_group(image, result, f) for f in findings],
        title=codes.REPORT,
    )
    content[0].ContentSequence.append(_evaluations(_inputs(result), _comments(result)))
    report = _document(image, content, uid, f"AI result: {result.task.title}", result)
    return complete(report, source, made_at)


def not_analysed_report(
    source: Dataset, reason: str, uid: str, made_at: datetime
) -> sr.Comprehensive3DSR:
    """Build the report that a radiograph was not analysed.

    Args:
        source: header of the radiograph.
        reason: for people, one sentence without anything that names the patient.
        uid: SOP instance UID of the report.
        made_at: when that was decided.
    """
    image = reference_of(source)
    root = sr.ContainerContentItem(name=codes.REPORT, template_id="1500")
    root.ContentSequence = sr.ContentSequence(
        [
            *sr.LanguageOfContentItemAndDescendants(codes.ENGLISH),
            *_observer("", ""),
            sr.CodeContentItem(
                name=codes.PROCEDURE_REPORTED,
                value=codes.IMAGING_PROCEDURE,
                relationship_type=sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
            ),
            _evaluations(
                [_coded(codes.ANALYSIS, codes.NOT_ANALYSED)], [f"Not analysed: {reason}", NOTICE]
            ),
        ]
    )
    content = sr.ContentSequence([root], is_root=True)
    report = _document(image, content, uid, "AI result: not analysed", None)
    return complete(report, source, made_at)


def _document(
    image: Dataset,
    content: Sequence[Dataset],
    uid: str,
    description: str,
    result: Result | None,
) -> sr.Comprehensive3DSR:
    model = result.answer.prediction.model if result else ""
    return sr.Comprehensive3DSR(
        evidence=[image],
        content=content,
        series_instance_uid=derived_uid(uid, "series"),
        series_number=SERIES_NUMBER,
        series_description=long_string(description),
        sop_instance_uid=uid,
        instance_number=1,
        is_complete=True,
        coding_schemes=[codes.private_scheme()],
        previous_versions=_predecessors(image, result),
        **equipment(model, result.digest if result else ""),
    )


def _predecessors(image: Dataset, result: Result | None) -> list[Dataset] | None:
    """The report that this one replaces, by the references to it; None without one."""
    if result is None or not result.predecessor:
        return None
    document = Dataset()
    document.StudyInstanceUID = image.StudyInstanceUID
    document.SeriesInstanceUID = derived_uid(result.predecessor, "series")
    document.SOPClassUID = Comprehensive3DSRStorage
    document.SOPInstanceUID = result.predecessor
    return [document]


def _observer(model: str, digest: str) -> sr.ObservationContext:
    """The device that observed: its UID is that of the model, not of a machine."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", __version__, digest),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=model or None,
        serial_number=digest or None,
    )
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DEVICE, observer_identifying_attributes=device
        )
    )


def _algorithm(result: Result, region: Region | None) -> sr.AlgorithmIdentification:
    parameters = [f"digest={result.digest}", f"task={result.task.name}"]
    if result.configuration:
        parameters.append(f"configuration={result.configuration}")
    if region is not None:
        parameters.append(f"region={region.method}")
    return sr.AlgorithmIdentification(
        name=result.answer.prediction.model,
        version=__version__,
        manufacturer=MANUFACTURER,
        parameters=parameters,
    )


def _finding_group(
    image: Dataset, result: Result, finding: FindingPrediction
) -> sr.MeasurementsAndQualitativeEvaluations | sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """The group of one finding: TID 1410 if it is the only one and has a region, else TID 1501.

    In TID 1501 the region is what the probability was inferred from (TID 320): groups of both
    templates in one report are valid, yet PixelMed's validator holds all of them to TID 1410.
    """
    region = result.region if result.region and result.region.finding == finding.finding else None
    decision = codes.CLASS_DECISION if finding.threshold is None else codes.DECISION
    common = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=result.tracking_uid(image.SOPInstanceUID, finding.finding),
            identifier=finding.finding,
        ),
        "finding_type": codes.finding_code(result.task, finding.finding),
        "algorithm_id": _algorithm(result, region),
        "qualitative_evaluations": [
            sr.QualitativeEvaluation(codes.PRESENCE, codes.presence(finding)),
            sr.QualitativeEvaluation(decision, codes.DECISIONS[finding.positive]),
        ],
    }
    if region and len(result.answer.prediction.findings) == 1:
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=sr.ImageRegion(**_outline(image, region)),
            measurements=_measurements(finding),
            **common,
        )
    inferred_from = [sr.CoordinatesForMeasurement(**_outline(image, region))] if region else None
    return sr.MeasurementsAndQualitativeEvaluations(
        measurements=_measurements(finding, inferred_from),
        source_images=[sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
        **common,
    )


def _measurements(
    finding: FindingPrediction,
    inferred_from: Sequence[sr.CoordinatesForMeasurement] | None = None,
) -> list[sr.Measurement]:
    probability = sr.Measurement(
        codes.PROBABILITY,
        finding.probability,
        codes.NO_UNITS,
        referenced_coordinates=inferred_from,
    )
    if finding.threshold is None:
        return [probability]
    return [probability, sr.Measurement(codes.THRESHOLD, finding.threshold, codes.NO_UNITS)]


def _outline(image: Dataset, region: Region) -> dict[str, Any]:
    """Arguments of an SCOORD with the region of the image."""
    return {
        "graphic_type": sr.GraphicTypeValues.POLYLINE,
        "graphic_data": region.closed,
        "source_image": sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
    }


def _inputs(result: Result) -> list[sr.CodeContentItem]:
    used = result.answer.prediction.modalities
    return [_coded(codes.INPUT, codes.INPUTS[modality]) for modality in used]


def _comments(result: Result) -> list[str]:
    prediction = result.answer.prediction
    synthetic = [SYNTHETIC] if prediction.synthetic else []
    return [NOTICE, *synthetic, *(f"Warning: {text}" for text in result.all_warnings)]


def _coded(name: Code, value: Code) -> sr.CodeContentItem:
    return sr.CodeContentItem(name=name, value=value, relationship_type=CONTAINS)


def _evaluations(
    coded: Iterable[sr.CodeContentItem], comments: Iterable[str]
) -> sr.ContainerContentItem:
    container = sr.ContainerContentItem(
        name=codes.QUALITATIVE_EVALUATIONS, relationship_type=CONTAINS
    )
    texts = [
        sr.TextContentItem(name=codes.COMMENT, value=text, relationship_type=CONTAINS)
        for text in comments
    ]
    container.ContentSequence = sr.ContentSequence([*coded, *texts])
    return container
