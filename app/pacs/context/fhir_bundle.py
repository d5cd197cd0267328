"""FHIR R4: Observations and DocumentReferences of a bundle, or alone, become facts.

Only the fields that count are described; all others are passed over.
"""

import base64
import binascii
from collections.abc import Iterator
from datetime import tzinfo
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.pacs.context.facts import ContextError, Fact, Reading, moment

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
USABLE, TAKEN_BACK = ("final", "amended", "corrected", "preliminary"), ("entered-in-error",)
MOST_RESOURCES = 20_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Coding(_Part):
    """A code in a system."""

    system: str = ""
    code: str = ""


class Concept(_Part):
    """Codes of one meaning."""

    coding: tuple[Coding, ...] = ()

    @property
    def loinc(self) -> str:
        """Its LOINC code; empty without one."""
        return next((c.code for c in self.coding if c.system == LOINC), "")


class Identifier(_Part):
    """An identifier of a system."""

    system: str = ""
    value: str = ""


class Reference(_Part):
    """Who or what is meant."""

    reference: str = ""
    identifier: Identifier | None = None


class Quantity(_Part):
    """A number with its unit; the number as it was written."""

    value: int | float | None = None
    comparator: str = ""
    unit: str = ""
    system: str = ""
    code: str = ""


class Component(_Part):
    """A value with its code."""

    code: Concept = Concept()
    value_quantity: Quantity | None = Field(None, alias="valueQuantity")
    value_string: str | None = Field(None, alias="valueString")
    value_concept: Concept | None = Field(None, alias="valueCodeableConcept")


class Period(_Part):
    """A span of time."""

    end: str = ""


class Observation(Component):
    """What was observed."""

    status: str
    subject: Reference = Reference()
    effective: str = Field("", alias="effectiveDateTime")
    instant: str = Field("", alias="effectiveInstant")
    period: Period = Field(Period(), alias="effectivePeriod")
    component: tuple[Component, ...] = ()
    based_on: tuple[Reference, ...] = Field((), alias="basedOn")


class Attachment(_Part):
    """Content within the document."""

    kind: str = Field("", alias="contentType")
    data: str = ""


class Content(_Part):
    """One form of a document."""

    attachment: Attachment = Attachment()


class DocumentReference(_Part):
    """A document, as a note."""

    status: str
    type: Concept = Concept()
    subject: Reference = Reference()
    date: str = ""
    content: tuple[Content, ...] = ()


class Patient(_Part):
    """Who the others are about."""

    id: str = ""
    identifier: tuple[Identifier, ...] = ()


class Entry(_Part):
    """A resource and its address."""

    address: str = Field("", alias="fullUrl")
    resource: dict[str, Any] = Field(default_factory=dict)


class Bundle(_Part):
    """Several resources."""

    entry: tuple[Entry, ...] = ()


JSON: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def read_fhir(data: bytes | dict[str, Any], zone: tzinfo, system: str = "") -> Reading:
    """Read a bundle or one resource; a resource that cannot be used is dropped alone.

    Args:
        data: JSON.
        zone: of times without an offset.
        system: of the patient's identifier; empty takes the first.

    Raises:
        ContextError: it is neither.
    """
    try:
        whole = JSON.validate_json(data) if isinstance(data, bytes) else data
        entries = _entries(whole)
    except (ValidationError, RecursionError):
        raise ContextError("no FHIR resource", remedy="Write a Bundle of R4 as JSON") from None
    if len(entries) > MOST_RESOURCES:
        raise ContextError(f"more than {MOST_RESOURCES:,} resources", remedy="Divide the bundle")
    patients = _patients(entries, system)
    reading = Reading()
    for entry in entries:
        try:
            reading.extend(_facts(entry.resource, patients, system, zone))
        except ValidationError:
            reading.add("unreadable resource")
    return reading


def _entries(whole: dict[str, Any]) -> tuple[Entry, ...]:
    if whole.get("resourceType") == "Bundle":
        return Bundle.model_validate(whole).entry
    if not isinstance(whole.get("resourceType"), str):
        raise ContextError("no FHIR resource", remedy="Write a Bundle of R4 as JSON")
    return (Entry(resource=whole),)


def _patients(entries: tuple[Entry, ...], system: str) -> dict[str, str]:
    """Reference → patient id."""
    found: dict[str, str] = {}
    for entry in entries:
        if entry.resource.get("resourceType") != "Patient":
            continue
        try:
            patient = Patient.model_validate(entry.resource)
        except ValidationError:
            continue
        number = _identifier(patient.identifier, system)
        found |= {name: number for name in (entry.address, f"Patient/{patient.id}") if name}
    return found


def _identifier(identifiers: tuple[Identifier, ...], system: str) -> str:
    fits = (i.value for i in identifiers if i.value and system in ("", i.system))
    return next(fits, "")


def _facts(
    resource: dict[str, Any], patients: dict[str, str], system: str, zone: tzinfo
) -> Iterator[Fact | str]:
    kind = resource.get("resourceType")
    if kind == "Observation":
        observation = Observation.model_validate(resource)
        patient = _subject(observation.subject, patients, system)
        yield from _observed(observation, patient, zone)
    elif kind == "DocumentReference":
        document = DocumentReference.model_validate(resource)
        patient = _subject(document.subject, patients, system)
        yield _note(document, patient, zone)


def _subject(subject: Reference, patients: dict[str, str], system: str) -> str:
    if subject.identifier:
        return _identifier((subject.identifier,), system)
    return patients.get(subject.reference, "")


def _observed(observation: Observation, patient: str, zone: tzinfo) -> Iterator[Fact | str]:
    if observation.status not in (*USABLE, *TAKEN_BACK):
        yield "observation without a result"
        return
    at = moment(observation.effective or observation.instant or observation.period.end, zone)
    if isinstance(at, str):
        yield at
        return
    orders = (r.identifier.value for r in observation.based_on if r.identifier)
    accession = next(orders, "")
    parts = (observation, *observation.component)
    coded = [part for part in parts if part.code.loinc]
    if not coded:
        yield "no LOINC code"
    for part in coded:
        value, unit = _value(part)
        if observation.status in TAKEN_BACK:
            value = ""
        elif not value:
            if part is not observation or not observation.component:
                yield "no value"
            continue
        yield Fact(part.code.loinc, value, unit, at, patient, accession)


def _value(part: Component) -> tuple[str, str]:
    quantity = part.value_quantity
    if quantity is not None and quantity.value is not None:
        unit = quantity.code if quantity.system == UCUM else quantity.unit
        return f"{quantity.comparator}{quantity.value!r}", unit
    if part.value_string is not None:
        return part.value_string.strip(), ""
    if part.value_concept is not None:
        return next((c.code for c in part.value_concept.coding if c.code), ""), ""
    return "", ""


def _note(document: DocumentReference, patient: str, zone: tzinfo) -> Fact | str:
    at = moment(document.date, zone)
    if isinstance(at, str):
        return at
    code = document.type.loinc
    if document.status == "entered-in-error":
        return Fact(code, "", "", at, patient) if code else "no LOINC code"
    texts = (c.attachment for c in document.content)
    plain = next((a for a in texts if a.kind.partition(";")[0].strip() == "text/plain"), None)
    if document.status != "current" or plain is None:
        return "document without plain text"
    try:
        text = base64.b64decode(plain.data, validate=True).decode("utf-8").strip()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return "unreadable document"
    return Fact(code, text, "", at, patient) if text else "no value"
