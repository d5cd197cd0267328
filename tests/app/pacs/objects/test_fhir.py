"""FHIR R4: valid by another's schema, with the numbers of the answer and the ids of a repeat."""

import json
import re

from fhir.resources.R4B.bundle import Bundle

from app.pacs.objects.fhir import fhir_bundle, fhir_not_analysed, report_id
from cxr_mm.core.prediction import NOTICE, SYNTHETIC
from tests.app.pacs.objects.samples import (
    DIGEST,
    MADE_AT,
    computed_radiograph,
    finding,
    one_finding,
    result_of,
    two_findings,
)


def bundle_of(source=None, result=None):
    """As it comes back from JSON, once the schema of R4 has taken it."""
    made = fhir_bundle(source or computed_radiograph(), result or two_findings(), MADE_AT)
    return checked(made)


def checked(made):
    text = json.dumps(made, ensure_ascii=False, allow_nan=False)
    Bundle.model_validate_json(text)
    return json.loads(text)


def resources(bundle, kind):
    return [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == kind]


def test_every_source_gives_a_valid_transaction(source):
    made = bundle_of(source)
    kinds = [e["resource"]["resourceType"] for e in made["entry"]]
    assert kinds == ["Device", "Observation", "Observation", "DiagnosticReport"]
    assert (made["type"], report_id(made)) == ("transaction", made["entry"][-1]["resource"]["id"])
    for entry in made["entry"]:
        resource = entry["resource"]
        url = f"{resource['resourceType']}/{resource['id']}"
        assert entry["request"] == {"method": "PUT", "url": url}
        assert entry["fullUrl"] == f"urn:uuid:{resource['id']}"


def test_numbers_are_those_of_the_answer():
    result = two_findings()
    for made, given in zip(
        resources(bundle_of(), "Observation"), result.answer.prediction.findings, strict=True
    ):
        numbers = {
            c["code"]["coding"][0]["code"]: c["valueQuantity"]["value"]
            for c in made["component"]
            if "valueQuantity" in c
        }
        assert numbers == {"122157": given.probability, "operating_point": given.threshold}


def test_codes_are_those_of_the_report():
    second = resources(bundle_of(), "Observation")[1]
    assert second["code"]["coding"][0]["system"] == "http://snomed.info/sct"
    assert second["valueCodeableConcept"]["coding"][0]["display"] == "Undetermined"
    assert second["component"][0]["valueCodeableConcept"]["coding"][0]["display"] == "Positive"
    (private,) = resources(bundle_of(result=one_finding()), "Observation")
    (coding,) = private["code"]["coding"]
    assert coding["code"] == "pneumonia_sites.pneumonia"
    assert re.fullmatch(r"urn:oid:2\.25\.\d+", coding["system"])
    (of_class,) = resources(
        bundle_of(result=result_of(finding("normal", threshold=None, positive=True))), "Observation"
    )
    assert [c["code"]["coding"][0]["code"] for c in of_class["component"]] == [
        "likeliest_class",
        "122157",
    ]


def test_every_reference_leads_to_an_entry_or_names_what_the_receiver_has():
    made = bundle_of()
    urls = {e["fullUrl"] for e in made["entry"]}
    assert set(re.findall(r"urn:uuid:[0-9a-f-]{36}", json.dumps(made))) == urls
    (report,) = resources(made, "DiagnosticReport")
    assert report["subject"]["identifier"] == {"value": "P1"}
    assert report["basedOn"][0]["identifier"]["value"] == "A1"
    assert report["imagingStudy"][0]["identifier"]["value"] == "urn:oid:1.2.3.4.2"
    assert report["media"][0]["link"]["identifier"]["value"] == "urn:oid:1.2.3.4.1"
    assert report["effectiveDateTime"] == "2026-03-04"
    assert report["status"] == "preliminary"
    assert "nne" not in json.dumps(made, ensure_ascii=False)  # the name is nowhere


def test_the_text_says_everything():
    (report,) = resources(bundle_of(), "DiagnosticReport")
    text = report["text"]["div"]
    for part in (
        "Consolidation: 12.3 %, negative: below the operating point of 33.3 %.",
        "Effusion: &gt; 99.9 %, uncertain, positive",
        "Inputs used: Image, Clinical values.",
        "Warning: The image is blurred; ≥ 3 µm",
        DIGEST,
        SYNTHETIC,
        NOTICE,
    ):
        assert part in text
    assert report["conclusion"].endswith(NOTICE)


def test_a_newer_answer_is_a_version_of_the_same_report_and_findings():
    """Other models are other devices; another image or task has a report of its own."""

    def ids(bundle):
        return {e["resource"]["id"] for e in bundle["entry"]}

    findings = two_findings().answer.prediction.findings
    first = ids(bundle_of())
    assert ids(bundle_of()) == first
    assert ids(bundle_of(result=result_of(*findings, configuration="other context"))) == first
    (device,) = resources(bundle_of(), "Device")
    newer = bundle_of(result=result_of(*findings, digest="f" * 64))
    assert ids(newer) & first == first - {device["id"]}
    assert report_id(newer) == report_id(bundle_of())
    assert newer["entry"][-1]["resource"]["status"] == "preliminary"
    for other in (
        bundle_of(computed_radiograph(SOPInstanceUID="1.2.3.4.9")),
        bundle_of(result=result_of(*findings, task="pneumonia_sites")),
    ):
        assert ids(other) & first == {device["id"]}


def test_what_was_not_analysed_is_a_cancelled_report():
    made = checked(fhir_not_analysed(computed_radiograph(), "The view is <lateral>", MADE_AT))
    (entry,) = made["entry"]
    assert entry["resource"]["status"] == "cancelled"
    assert entry["resource"]["conclusion"] == f"Not analysed: The view is <lateral>. {NOTICE}"
    assert "&lt;lateral&gt;" in entry["resource"]["text"]["div"]
