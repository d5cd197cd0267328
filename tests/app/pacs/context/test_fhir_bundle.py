"""FHIR R4: bundles give the right values; what cannot be used is dropped alone."""

import base64
import json
from datetime import UTC, datetime

import pytest

from app.pacs.context.facts import ContextError, Fact
from app.pacs.context.fhir_bundle import read_fhir

UCUM = {"system": "http://unitsofmeasure.org"}
PATIENT = {
    "resourceType": "Patient",
    "id": "7",
    "identifier": [{"system": "urn:state", "value": "999"}, {"system": "urn:mrn", "value": "P1"}],
}


def coded(code, system="http://loinc.org"):
    return {"coding": [{"system": "urn:local", "code": "x"}, {"system": system, "code": code}]}


def observation(**changed):
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": coded("1988-5"),
        "subject": {"reference": "Patient/7"},
        "effectiveDateTime": "2026-03-01T11:00:00+01:00",
        "valueQuantity": {"value": 12.5, "unit": "milligrams", "code": "mg/L", **UCUM},
    } | changed


def document(text="Fever.", **changed):
    data = base64.b64encode(text.encode()).decode()
    return {
        "resourceType": "DocumentReference",
        "status": "current",
        "type": coded("11488-4"),
        "subject": {"identifier": {"system": "urn:mrn", "value": "P1"}},
        "date": "2026-03-01T09:00:00Z",
        "content": [{"attachment": {"contentType": "text/plain; charset=utf-8", "data": data}}],
    } | changed


def attached(**attachment):
    return document(content=[{"attachment": attachment}])


def read(*resources, system="urn:mrn"):
    entries = [{"resource": each} for each in (PATIENT, *resources)]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    return read_fhir(json.dumps(bundle).encode(), UTC, system)


def test_observation_and_document_are_facts():
    reading = read(observation(), document())
    assert reading.facts == [
        Fact("1988-5", "12.5", "mg/L", datetime(2026, 3, 1, 10, tzinfo=UTC), "P1"),
        Fact("11488-4", "Fever.", "", datetime(2026, 3, 1, 9, tzinfo=UTC), "P1"),
    ]
    assert reading.dropped == []


def test_components_comparators_and_corrections():
    pressure = observation(
        code=coded("85354-9"),
        valueQuantity=None,
        component=[
            {"code": coded("8480-6"), "valueQuantity": {"value": 120, "unit": "mmHg"}},
            {"code": coded("8462-4"), "valueQuantity": {"value": 80, "unit": "mmHg"}},
        ],
    )
    low = observation(valueQuantity={"value": 5, "comparator": "<", "unit": "mg/L"})
    wrong = observation(status="entered-in-error")
    found = [(f.code, f.value, f.unit) for f in read(pressure, low, wrong).facts]
    assert found == [
        ("8480-6", "120", "mmHg"),
        ("8462-4", "80", "mmHg"),
        ("1988-5", "<5", "mg/L"),
        ("1988-5", "", "mg/L"),
    ]


def test_the_order_gives_the_accession_number_and_one_resource_is_enough():
    alone = observation(
        subject={"identifier": {"value": "P1"}}, basedOn=[{"identifier": {"value": "A1"}}]
    )
    (fact,) = read_fhir(json.dumps(alone).encode(), UTC).facts
    assert (fact.patient_id, fact.accession) == ("P1", "A1")


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (observation(status="registered"), "observation without a result"),
        (observation(code=coded("1988-5", "urn:other")), "no LOINC code"),
        (observation(subject={"reference": "Patient/8"}), "no patient id and no accession number"),
        (observation(effectiveDateTime="2026-03-01"), "no time of day"),
        (observation(effectiveDateTime=["x"]), "unreadable resource"),
        (observation(valueQuantity={"value": "12 mg"}), "unreadable resource"),
        (observation(valueQuantity=None), "no value"),
        (document(status="superseded"), "document without plain text"),
        (attached(url="file:///etc/passwd"), "document without plain text"),
        (attached(contentType="text/plain", data="%%"), "unreadable document"),
        (document("x" * 20001), "value too long"),
    ],
)
def test_what_cannot_be_used_is_dropped_alone(resource, reason):
    reading = read(resource, observation())
    assert (len(reading.facts), reading.dropped) == (1, [reason])


def test_other_resources_are_passed_over():
    reading = read({"resourceType": "Encounter"}, {"no": "type"}, observation())
    assert (len(reading.facts), reading.dropped) == (1, [])


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"resourceType": 5}', b"\xff", b"[" * 100_000, b'{"a":' * 50_000]
)
def test_what_is_no_fhir_is_refused(data):
    with pytest.raises(ContextError):
        read_fhir(data, UTC)
