"""Sources that are asked: parameters are bound, answers bounded, others' values left out."""

import json
import sqlite3
from datetime import UTC

import pytest
from pydantic import ValidationError

from app.pacs.context.facts import ContextError
from app.pacs.context.queries import FhirSource, SqlSource, Wanted
from app.pacs.sections.context import FhirEndpoint, SqlQuery
from cxr_mm.core.errors import ParamsError
from tests.app.pacs.context.conftest import STUDY, before
from tests.app.pacs.context.test_fhir_bundle import PATIENT, document, observation
from tests.app.pacs.dicomweb.conftest import web  # noqa: F401  a fixture

QUERY = (
    "SELECT code, value, unit, time FROM labs"
    " WHERE patient = :patient_id AND time BETWEEN :since AND :until"
)


@pytest.fixture
def labs(tmp_path):
    file = tmp_path / "labs.db"
    rows = [
        ("P1", "1988-5", 12.5, "mg/L", "2026-03-01T11:00:00+00:00"),
        ("P1", "6690-2", 11, "10*9/L", "2026-02-01T11:00:00+00:00"),
        ("P2", "1988-5", 99, "mg/L", "2026-03-01T11:00:00+00:00"),
        ("P1", "1988-5", 1, "mg/L", None),
    ]
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE labs (patient, code, value, unit, time)")
        connection.executemany("INSERT INTO labs VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()
    return file


def wanted(patient="P1", accession="A1"):
    return Wanted(patient, accession, before(72), STUDY)


def ask(labs, query=QUERY, **who):
    opened = SqlSource(SqlQuery(url=f"sqlite:///{labs}", query=query), UTC)
    try:
        return opened.ask(wanted(**who))
    finally:
        opened.close()


def test_rows_of_the_patient_in_time_are_facts(labs):
    (fact,) = ask(labs).facts
    assert (fact.code, fact.value, fact.unit, fact.patient_id) == ("1988-5", "12.5", "mg/L", "P1")
    assert fact.at == before(1)
    every = ask(labs, "SELECT * FROM labs WHERE patient = :patient_id")
    assert (len(every.facts), every.dropped) == (2, ["no time"])


@pytest.mark.parametrize("patient", ["P1' OR '1'='1", "'; DROP TABLE labs; --", "%", ":since"])
def test_a_patient_id_is_a_value_and_never_part_of_the_query(labs, patient):
    assert ask(labs, patient=patient).facts == []
    assert len(ask(labs).facts) == 1


def test_a_query_can_change_nothing(labs):
    change = "DELETE FROM labs WHERE patient = :patient_id RETURNING code, value, unit, time"
    with pytest.raises(ContextError, match="cannot be asked"):
        ask(labs, change)
    assert len(ask(labs).facts) == 1


def test_columns_that_are_missing_and_too_many_rows_are_said(labs):
    lacking = ask(labs, "SELECT code, value FROM labs WHERE patient = :patient_id")
    assert set(lacking.dropped) == {"column time is missing"}
    endless = (
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
        " SELECT x AS code, 1 AS value, 'mg/L' AS unit, :patient_id AS time FROM n"
    )
    with pytest.raises(ContextError, match="more than 10,000 rows"):
        ask(labs, endless)


def test_a_database_that_is_away_is_an_error_without_its_content(tmp_path):
    with pytest.raises(ContextError) as raised:
        ask(tmp_path / "none" / "labs.db")
    assert "P1" not in raised.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "postgresql://u:secret@h/d"},
        {"url": "postgresql://u:{password}@h/d"},
        {"secret_variable": "X"},
        {"query": "SELECT 1"},
        {"query": "SELECT :patient_id, :name"},
        {"url": "::"},
    ],
)
def test_an_unsafe_query_is_refused(fields):
    with pytest.raises(ValidationError):
        SqlQuery.model_validate({"url": "sqlite:///x.db", "query": QUERY} | fields)


def test_a_password_comes_from_its_variable_and_shows_nowhere(monkeypatch):
    settings = SqlQuery(
        url="postgresql+psycopg://u:{password}@127.0.0.1:1/d",
        secret_variable="LABS_PASSWORD",
        query=QUERY,
    )
    monkeypatch.delenv("LABS_PASSWORD", raising=False)
    with pytest.raises(ParamsError, match="LABS_PASSWORD"):
        SqlSource(settings, UTC)
    monkeypatch.setenv("LABS_PASSWORD", "s3cret")
    opened = SqlSource(settings, UTC)
    assert "s3cret" not in opened.name
    with pytest.raises(ContextError) as raised:
        opened.ask(wanted())
    assert "s3cret" not in str(raised.value)
    opened.close()


def bundle(*resources):
    entries = [{"resource": each} for each in resources]
    return json.dumps({"resourceType": "Bundle", "entry": entries}).encode()


def test_a_fhir_server_is_asked_by_identifier(web):  # noqa: F811
    other = PATIENT | {"id": "8", "identifier": [{"system": "urn:mrn", "value": "P2"}]}
    strange = observation(subject={"reference": "Patient/8"})
    unknown = observation(subject={"reference": "Patient/9"})
    web.set("/dicom-web/Observation", bundle(PATIENT, other, observation(), strange, unknown))
    web.set("/dicom-web/DocumentReference", bundle(PATIENT, document()))
    endpoint = FhirEndpoint(url=web.url, identifier_system="urn:mrn")
    reading = FhirSource(endpoint, UTC).ask(wanted("P|1", ""))
    assert [f.patient_id for f in reading.facts] == ["P1", "P2", "P1"]
    assert reading.dropped == ["no patient id and no accession number"]
    queries = [query for _, _, query, _ in web.asked]
    assert all("patient.identifier=urn%3Amrn%7CP%5C%7C1" in query for query in queries)
    assert "date=ge2026-02-26T12%3A00%3A00Z" in queries[0]


def test_a_fhir_server_that_errs_is_an_error(web):  # noqa: F811
    source = FhirSource(FhirEndpoint(url=web.url), UTC)
    for status in (500, 404, 302):
        web.set("/dicom-web/Observation", b"", status)
        with pytest.raises(ContextError, match=str(status)):
            source.ask(wanted())
    assert source.ask(wanted("", "A1")).facts == []
