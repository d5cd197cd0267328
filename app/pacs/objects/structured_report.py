"""Structured report: Comprehensive 3D SR by TID 1500, and the report of what was not analysed.

Each finding is one measurement group (TID 1501, or 1410) with its algorithm (TID 4019). Inputs,
warnings and the notice are of the whole answer: container Qualitative Evaluations of TID 1500.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

from app.pacs.objects import codes
from app.pacs.objects.evidence import (
    MANUFACTURER,
    Equipment,
    Evidence,
    SourceImage,
    complete,
    date_equipment,
    equipment,
    long_string,
    moment_of,
)
from app.pacs.objects.prepared import Prepared, Varying, elements_of
from app.pacs.objects.result import Result
from app.pacs.objects.uids import derived_uid
from cxr_mm import __version__
from cxr_mm.core.prediction import NOTICE, SYNTHETIC, FindingPrediction

SERIES_NUMBER = 9001
CONTAINS = sr.RelationshipTypeValues.CONTAINS


@dataclass(frozen=True)
class Group:
    """What is said of one finding.

    Args:
        finding: its name.
        finding_type: its code.
        decision_type: what the decision is.
        parameters: of the algorithm.
        tracking_uid: what it is tracked by in every object.
        presence, decision: of the finding.
        probability, threshold: in [0, 1]; None where the likeliest class is chosen.
        outline: corners (N, 2) of the region, the first again at the end; None without one.
    """

    finding: str
    finding_type: Code
    decision_type: Code
    parameters: tuple[str, ...]
    tracking_uid: Varying[str]
    presence: Varying[Code]
    decision: Varying[Code]
    probability: Varying[float]
    threshold: Varying[float | None]
    outline: Varying[NDArray[np.float64] | None]


@dataclass(frozen=True)
class Report:
    """What a structured report says.

    Args:
        description: of its series.
        model, digest: that answered.
        inputs: that were used.
        image: that was read.
        uid: SOP instance UID of the report.
        series_uid: of its series.
        predecessor, predecessor_series: UIDs of the report that it replaces; None for none.
        moment: when the answer was given.
        groups: one for each finding.
        comments: warnings and notices.
    """

    description: str
    model: str
    digest: str
    inputs: tuple[Code, ...]
    image: SourceImage
    groups: tuple[Group, ...]
    uid: Varying[str]
    series_uid: Varying[str]
    predecessor: Varying[str | None]
    predecessor_series: Varying[str | None]
    moment: Varying[str]
    comments: Varying[tuple[str, ...]]


def structured_report(
    evidence: Evidence, result: Result, uid: str, made_at: datetime
) -> dict[int, bytes]:
    """Encode the report of one answer.

    Args:
        evidence: of the radiograph.
        result: what is told of it.
        uid: SOP instance UID of the report.
        made_at: when the answer was given.
    """
    added = evidence.added(made_at, dates_content=True, body_part=False)
    report = report_of(evidence.image, result, uid, made_at)
    return PREPARED.elements(report) | evidence.encoded | elements_of(added)


def report_of(image: SourceImage, result: Result, uid: str, made_at: datetime) -> Report:
    """What the report of one answer says."""
    prediction, before = result.answer.prediction, result.predecessor or None
    return Report(
        description=long_string(f"AI result: {result.task.title}"),
        model=prediction.model,
        digest=result.digest,
        inputs=tuple(codes.INPUTS[modality] for modality in prediction.modalities),
        image=image,
        groups=tuple(_group(image, result, finding) for finding in prediction.findings),
        uid=uid,
        series_uid=derived_uid(uid, "series"),
        predecessor=before,
        predecessor_series=before and derived_uid(before, "series"),
        moment=moment_of(made_at),
        comments=tuple(_comments(result)),
    )


def _group(image: SourceImage, result: Result, finding: FindingPrediction) -> Group:
    region = result.region if result.region and result.region.finding == finding.finding else None
    parameters = [f"digest={result.digest}", f"task={result.task.name}"]
    if result.configuration:
        parameters.append(f"configuration={result.configuration}")
    if region is not None:
        parameters.append(f"region={region.method}")
    return Group(
        finding=finding.finding,
        finding_type=codes.finding_code(result.task, finding.finding),
        decision_type=codes.CLASS_DECISION if finding.threshold is None else codes.DECISION,
        parameters=tuple(parameters),
        tracking_uid=result.tracking_uid(image.instance, finding.finding),
        presence=codes.presence(finding),
        decision=codes.DECISIONS[finding.positive],
        probability=finding.probability,
        threshold=finding.threshold,
        outline=None if region is None else region.closed,
    )


def build(report: Report) -> sr.Comprehensive3DSR:
    """Build a report by highdicom."""
    content = sr.MeasurementReport(
        observation_context=_observer(report.model, report.digest),
        procedure_reported=codes.IMAGING_PROCEDURE,
        imaging_measurements=[_measurement_group(report, group) for group in report.groups],
        title=codes.REPORT,
    )
    inputs = [_coded(codes.INPUT, each) for each in report.inputs]
    content[0].ContentSequence.append(_evaluations(inputs, report.comments))
    built = _document(
        report.image,
        content,
        report.uid,
        report.series_uid,
        report.description,
        equipment(report.model, report.digest),
        _predecessors(report),
    )
    date_equipment(built, report.moment)
    return built


PREPARED = Prepared(build)


def not_analysed_report(
    evidence: Evidence, reason: str, uid: str, made_at: datetime
) -> sr.Comprehensive3DSR:
    """Build the report that a radiograph was not analysed.

    Args:
        evidence: of the radiograph.
        reason: for people, one sentence without anything that names the patient.
        uid: SOP instance UID of the report.
        made_at: when that was decided.
    """
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
    series, title = derived_uid(uid, "series"), "AI result: not analysed"
    report = _document(evidence.image, content, uid, series, title, equipment("", ""))
    return complete(report, evidence, made_at)


def _document(
    image: SourceImage,
    content: Sequence[Dataset],
    uid: str,
    series_uid: str,
    description: str,
    device: Equipment,
    predecessors: list[Dataset] | None = None,
) -> sr.Comprehensive3DSR:
    return sr.Comprehensive3DSR(
        evidence=[image.reference()],
        content=content,
        series_instance_uid=series_uid,
        series_number=SERIES_NUMBER,
        series_description=description,
        sop_instance_uid=uid,
        instance_number=1,
        is_complete=True,
        coding_schemes=[codes.private_scheme()],
        previous_versions=predecessors,
        **device,
    )


def _predecessors(report: Report) -> list[Dataset] | None:
    """The report that this one replaces, by the references to it; None without one."""
    if report.predecessor is None:
        return None
    document = Dataset()
    document.StudyInstanceUID = report.image.study
    document.SeriesInstanceUID = report.predecessor_series
    document.SOPClassUID = Comprehensive3DSRStorage
    document.SOPInstanceUID = report.predecessor
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


def _measurement_group(
    report: Report, group: Group
) -> sr.MeasurementsAndQualitativeEvaluations | sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """The group of one finding: TID 1410 if it is the only one and has a region, else TID 1501.

    In TID 1501 the region is what the probability was inferred from (TID 320): groups of both
    templates in one report are valid, yet PixelMed's validator holds all of them to TID 1410.
    """
    image = report.image
    common = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=group.tracking_uid, identifier=group.finding
        ),
        "finding_type": group.finding_type,
        "algorithm_id": sr.AlgorithmIdentification(
            name=report.model,
            version=__version__,
            manufacturer=MANUFACTURER,
            parameters=group.parameters,
        ),
        "qualitative_evaluations": [
            sr.QualitativeEvaluation(codes.PRESENCE, group.presence),
            sr.QualitativeEvaluation(group.decision_type, group.decision),
        ],
    }
    outline = None if group.outline is None else _outline(image, group.outline)
    if outline and len(report.groups) == 1:
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=sr.ImageRegion(**outline),
            measurements=_measurements(group),
            **common,
        )
    inferred_from = [sr.CoordinatesForMeasurement(**outline)] if outline else None
    return sr.MeasurementsAndQualitativeEvaluations(
        measurements=_measurements(group, inferred_from),
        source_images=[sr.SourceImageForMeasurementGroup(image.sop_class, image.instance)],
        **common,
    )


def _measurements(
    group: Group,
    inferred_from: Sequence[sr.CoordinatesForMeasurement] | None = None,
) -> list[sr.Measurement]:
    probability = sr.Measurement(
        codes.PROBABILITY,
        group.probability,
        codes.NO_UNITS,
        referenced_coordinates=inferred_from,
    )
    if group.threshold is None:
        return [probability]
    return [probability, sr.Measurement(codes.THRESHOLD, group.threshold, codes.NO_UNITS)]


def _outline(image: SourceImage, corners: NDArray[np.float64]) -> dict[str, Any]:
    """Arguments of an SCOORD with the region of the image."""
    return {
        "graphic_type": sr.GraphicTypeValues.POLYLINE,
        "graphic_data": corners,
        "source_image": sr.SourceImageForRegion(image.sop_class, image.instance),
    }


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
