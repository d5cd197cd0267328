"""FHIR R4: the answer as a DiagnosticReport, with an Observation of each finding, in a transaction.

Every id is derived and every entry is a PUT, so that a repeat replaces and never doubles. So does a
newer answer for the same image and task, by another model or with more context: it is the next
version of the same resources, of which a server has the history. Its status stays `preliminary`:
`amended` is what was `final` before. Patient, order and images are named by their identifiers;
whoever receives the bundle has the resources.
"""

import uuid
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from html import escape
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from app.pacs.objects import codes
from app.pacs.objects.evidence import MANUFACTURER, SourceImage, header_of, image_of
from app.pacs.objects.result import Result
from app.pacs.objects.uids import PREFIX, derived_uid
from cxr_mm import __version__
from cxr_mm.core.prediction import NOTICE, SYNTHETIC, FindingPrediction, percent

Json = dict[str, Any]
SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org",
    "RADLEX": "http://radlex.org",
    "UCUM": "http://unitsofmeasure.org",
}
"""Coding schemes of DICOM (PS3.16 8) that have a URI of their own in FHIR."""
TERMS = "http://terminology.hl7.org/CodeSystem"
DICOM_UID, URI = "urn:dicom:uid", "urn:ietf:rfc:3986"


def fhir_bundle(source: Dataset, result: Result, made_at: datetime) -> Json:
    """Build the transaction of one answer: report, model and findings.

    Args:
        source: header of the radiograph; nothing is changed.
        result: what is told of it.
        made_at: when the answer was given, in local time.

    Raises:
        RadiographError: the header does not say which object it is of, or its size.
    """
    header = header_of(source)
    image, findings = image_of(header), result.answer.prediction.findings
    parts = (image.instance, result.task.name, "fhir")
    model = _device(result)
    observed = [
        _observation(header, image, result, f, _id(*parts, f.finding), model["id"])
        for f in findings
    ]
    report = _report(header, image, _id(*parts), made_at) | {
        "status": "preliminary",
        "result": [_link(each["id"]) for each in observed],
        "conclusion": " ".join([*(f"{f.title}: {_words(f)}." for f in findings), NOTICE]),
        "text": _narrative(_lines(result)),
    }
    return _transaction([model, *observed, report])


def fhir_not_analysed(source: Dataset, reason: str, made_at: datetime) -> Json:
    """Build the transaction that says that a radiograph was not analysed.

    Args:
        source: header of the radiograph.
        reason: for people, one sentence without anything that names the patient.
        made_at: when that was decided, in local time.

    Raises:
        RadiographError: the header does not say which object it is of, or its size.
    """
    header = header_of(source)
    image, lines = image_of(header), [f"Not analysed: {reason}.", NOTICE]
    report_id = _id(image.instance, "not analysed", reason, "fhir")
    report = _report(header, image, report_id, made_at) | {
        "status": "cancelled",
        "conclusion": " ".join(lines),
        "text": _narrative(lines),
    }
    return _transaction([report])


def report_id(bundle: Json) -> str:
    """Id of the report of a bundle; it is the last entry."""
    return str(bundle["entry"][-1]["resource"]["id"])


def _transaction(resources: Iterable[Json]) -> Json:
    entries = [
        {
            "fullUrl": f"urn:uuid:{each['id']}",
            "resource": each,
            "request": {"method": "PUT", "url": f"{each['resourceType']}/{each['id']}"},
        }
        for each in resources
    ]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _id(*parts: str) -> str:
    """The UUID of a derived UID."""
    return str(uuid.UUID(int=int(derived_uid(*parts).removeprefix(PREFIX))))


def _link(resource_id: str) -> Json:
    return {"reference": f"urn:uuid:{resource_id}"}


def _report(header: Dataset, image: SourceImage, own_id: str, made_at: datetime) -> Json:
    """What every report has."""
    report: Json = {
        "resourceType": "DiagnosticReport",
        "id": own_id,
        "category": [{"coding": [{"system": f"{TERMS}/v2-0074", "code": "RAD"}]}],
        "code": _concept(codes.REPORT),
        "subject": _subject(header),
        "issued": made_at.astimezone().isoformat(timespec="seconds"),
        "imagingStudy": [_named("ImagingStudy", image.study)],
        "media": [
            {
                "comment": "The radiograph that was read",
                "link": _named("Media", image.instance),
            }
        ],
    }
    if order := _text(header, "AccessionNumber"):
        kind = {"coding": [{"system": f"{TERMS}/v2-0203", "code": "ACSN"}]}
        report["basedOn"] = [
            {"type": "ServiceRequest", "identifier": {"type": kind, "value": order}}
        ]
    with suppress(ValueError):
        seen = datetime.strptime(_text(header, "StudyDate"), "%Y%m%d")
        report["effectiveDateTime"] = f"{seen:%Y-%m-%d}"
    return report


def _text(header: Dataset, keyword: str) -> str:
    """A value on one line of what can be printed; empty where there is none."""
    printable = (c if c.isprintable() else " " for c in str(header.get(keyword) or ""))
    return " ".join("".join(printable).split())


def _subject(header: Dataset) -> Json:
    patient = _text(header, "PatientID")
    if not patient:
        return {"type": "Patient", "display": "not stated"}
    identifier: Json = {"value": patient}
    if issuer := _text(header, "IssuerOfPatientID"):
        identifier["assigner"] = {"display": issuer}
    return {"type": "Patient", "identifier": identifier}


def _named(kind: str, uid: str) -> Json:
    """A reference to a DICOM object by its UID."""
    return {"type": kind, "identifier": {"system": DICOM_UID, "value": f"urn:oid:{uid}"}}


def _device(result: Result) -> Json:
    """The model, as the observer of the structured report."""
    uid = derived_uid("device", __version__, result.digest)
    versions = {"cxr-mm": __version__, "digest": result.digest}
    return {
        "resourceType": "Device",
        "id": _id("device", __version__, result.digest),
        "identifier": [{"system": URI, "value": f"urn:oid:{uid}"}],
        "manufacturer": MANUFACTURER,
        "deviceName": [{"name": result.answer.prediction.model, "type": "model-name"}],
        "version": [{"type": {"text": name}, "value": value} for name, value in versions.items()],
        "note": [{"text": NOTICE}],
    }


def _observation(
    header: Dataset,
    image: SourceImage,
    result: Result,
    finding: FindingPrediction,
    own_id: str,
    model: str,
) -> Json:
    decision = codes.CLASS_DECISION if finding.threshold is None else codes.DECISION
    component = [
        {
            "code": _concept(decision),
            "valueCodeableConcept": _concept(codes.DECISIONS[finding.positive]),
        },
        _number(codes.PROBABILITY, finding.probability),
    ]
    if finding.threshold is not None:
        component.append(_number(codes.THRESHOLD, finding.threshold))
    return {
        "resourceType": "Observation",
        "id": own_id,
        "status": "preliminary",
        "category": [{"coding": [{"system": f"{TERMS}/observation-category", "code": "imaging"}]}],
        "code": _concept(codes.finding_code(result.task, finding.finding))
        | {"text": finding.title},
        "subject": _subject(header),
        "device": _link(model),
        "derivedFrom": [_named("ImagingStudy", image.study)],
        "valueCodeableConcept": _concept(codes.presence(finding)),
        "component": component,
        "note": [{"text": NOTICE}],
        "text": _narrative([f"{finding.title}: {_words(finding)}.", NOTICE]),
    }


def _number(code: Code, value: float) -> Json:
    quantity = {"value": value, "unit": "1", "system": SYSTEMS["UCUM"], "code": "1"}
    return {"code": _concept(code), "valueQuantity": quantity}


def _concept(code: Code) -> Json:
    scheme = code.scheme_designator
    own = f"urn:oid:{derived_uid('coding scheme', scheme)}"
    coding = {"system": SYSTEMS.get(scheme, own), "code": code.value, "display": code.meaning}
    return {"coding": [coding]}


def _words(finding: FindingPrediction) -> str:
    return f"{percent(finding.probability)}, {finding.in_words}"


def _lines(result: Result) -> list[str]:
    """The whole answer, for people."""
    prediction = result.answer.prediction
    used = ", ".join(codes.INPUTS[modality].meaning for modality in prediction.modalities)
    return [
        *(f"{f.title}: {_words(f)}." for f in prediction.findings),
        f"Inputs used: {used}.",
        *(f"Warning: {text}" for text in result.all_warnings),
        f"Model {prediction.model}, cxr-mm {__version__}, digest {result.digest}.",
        *([SYNTHETIC] if prediction.synthetic else []),
        NOTICE,
    ]


def _narrative(lines: Iterable[str]) -> Json:
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return {
        "status": "generated",
        "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{paragraphs}</div>',
    }
