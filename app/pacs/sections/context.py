"""What the node's file says of clinical context: where it comes from, and how long it counts."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator
from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError

from app.pacs.sections.web import HttpService
from cxr_mm.core.types import Frozen

Format = Literal["csv", "hl7", "fhir"]
IDENTIFYING = frozenset({"patient_id", "accession_number"})
PARAMETERS = IDENTIFYING | {"since", "until"}
"""Named parameters of a query; they are bound, never written into it."""


class DropFolder(Frozen):
    """A folder whose files are read, taken over and deleted."""

    path: Path
    """Of files that are complete when they get their name: written as another, then renamed."""
    format: Format
    """`csv` (*.csv), `hl7` (*.hl7, ORU and ORM of version 2) or `fhir` (*.json, R4)."""
    file_bytes: int = Field(16 << 20, ge=1)
    """Of one file; a larger one is set aside in `rejected`."""


class SqlQuery(Frozen):
    """A database that is asked for each study."""

    url: str
    """SQLAlchemy URL; `{password}` in it stands for that of `secret_variable`."""
    secret_variable: str = ""
    """Environment variable with the password."""
    query: str
    """SELECT of the columns code, value, unit, time; the parameters `:patient_id`,
    `:accession_number`, `:since` and `:until` (ISO 8601, UTC) are bound."""
    seconds: float = Field(5.0, gt=0)
    """For the database to answer."""

    @field_validator("url")
    @classmethod
    def _without_password(cls, url: str) -> str:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise ValueError("not a database URL, as sqlite:///labs.db") from error
        if parsed.password and parsed.password != "{password}":
            raise ValueError("write {password} in its place, and name secret_variable")
        return url

    @field_validator("query")
    @classmethod
    def _bound(cls, query: str) -> str:
        named = set(text(query).compile().params)
        if unknown := named - PARAMETERS:
            raise ValueError(f"no such parameter: {', '.join(sorted(unknown))}")
        if not named & IDENTIFYING:
            raise ValueError("it names neither :patient_id nor :accession_number")
        return query

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if ("{password}" in self.url) != bool(self.secret_variable):
            raise ValueError("{password} in the URL and secret_variable go together")
        return self


class FhirEndpoint(HttpService):
    """A FHIR R4 server that is asked for each study, by the patient's identifier."""

    identifier_system: str = ""
    """System of the identifier that the header's patient id is one of; empty for any."""


class MllpListener(Frozen):
    """An address at which HL7 v2 messages (ORU, ORM) are taken."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(2575, ge=0, le=65535)
    """To listen on."""
    senders: tuple[str, ...] = ()
    """Addresses that may send; empty lets any that reaches the port."""
    tls: bool = False
    """Listen by TLS, with the node's certificates; senders need one of the same authority."""
    connections: int = Field(8, ge=1, le=256)
    """Open at once; more are closed."""
    message_bytes: int = Field(1 << 20, ge=1024)
    """Of one message; a connection that sends a larger one is closed."""
    idle_seconds: float = Field(60.0, gt=0)
    """Without a complete message, after which a connection is closed."""

    @field_validator("senders")
    @classmethod
    def _addresses(cls, senders: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ip_address(each)) for each in senders)


class ContextSettings(Frozen):
    """Laboratory values, vitals and notes beside the image."""

    folders: tuple[DropFolder, ...] = ()
    """Drop folders."""
    sql: tuple[SqlQuery, ...] = ()
    """Databases."""
    fhir_servers: tuple[FhirEndpoint, ...] = ()
    """FHIR servers."""
    mllp: MllpListener | None = None
    """Listener for HL7 messages; null listens to none."""
    time_zone: str = "UTC"
    """Of times without an offset, in headers too, as `Europe/Berlin`."""
    assigning_authority: str = ""
    """Of the patient ids in HL7 messages (PID-3.4); empty takes the first id."""
    most_hours: float = Field(72.0, gt=0)
    """Age of a value at the time of the study beyond which it is left out."""
    keep_hours: float = Field(96.0, gt=0)
    """For which what arrived is kept, by the keyed hash of its patient's id."""
    wait_seconds: float = Field(0.0, ge=0, le=86400)
    """For which a study waits for what its model could use; then it is answered with what is
    there."""
    ask_again_seconds: float = Field(300.0, gt=0)
    """Between two questions to databases and FHIR servers about a study that may be answered
    again."""
    again_hours: float = Field(24.0, ge=0)
    """After its arrival, within which a study is answered again by a rule with `answer_again`."""

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("no time zone, as Europe/Berlin") from error
        return name

    @property
    def zone(self) -> ZoneInfo:
        """Of times without an offset."""
        return ZoneInfo(self.time_zone)

    def below(self, root: Path) -> Self:
        """The same with absolute paths."""
        folders = tuple(f.model_copy(update={"path": root / f.path}) for f in self.folders)
        servers = tuple(each.below(root) for each in self.fhir_servers)
        return self.model_copy(update={"folders": folders, "fhir_servers": servers})
