"""Sources that are asked for each study: SQL databases, and FHIR servers."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, Protocol

from sqlalchemy import URL, create_engine, event, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from app.pacs.context.facts import ContextError, Fact, Reading, moment
from app.pacs.context.fhir_bundle import read_fhir
from app.pacs.dicomweb.client import AwayError, DeclinedError, HttpClient
from app.pacs.sections.context import FhirEndpoint, SqlQuery
from cxr_mm.core.errors import ParamsError

MOST_ROWS = 10_000
FHIR_JSON = "application/fhir+json"
PAGE_SIZE = 500


@dataclass(frozen=True)
class Wanted:
    """Which facts are asked for.

    Args:
        patient_id, accession: of the study; one of them may be empty.
        since, until: between which they were measured.
    """

    patient_id: str
    accession: str
    since: datetime
    until: datetime


class Source(Protocol):
    """A source that is asked for each study."""

    name: str

    def ask(self, wanted: Wanted) -> Reading:
        """Facts about one patient.

        Raises:
            ContextError: the source cannot be asked, or answers with something else.
        """

    def close(self) -> None:
        """Close every connection."""


class SqlSource:
    """A database.

    Args:
        settings: URL and query.
        zone: of times without an offset.

    Raises:
        ParamsError: the password or the driver is missing.
    """

    def __init__(self, settings: SqlQuery, zone: tzinfo) -> None:
        self._zone, self._query = zone, text(settings.query)
        self._names = tuple(self._query.compile().params)
        url = _with_password(settings)
        self.name = url.render_as_string(hide_password=True)
        try:
            self._engine = create_engine(
                url, hide_parameters=True, connect_args=_bounded(url, settings.seconds)
            )
        except (SQLAlchemyError, ModuleNotFoundError) as error:
            raise ParamsError(
                f"its driver is not installed ({error})",
                field=url.drivername,
                remedy="Install the driver that the URL names",
            ) from error
        if url.get_backend_name() == "sqlite":
            event.listen(self._engine, "connect", _read_only)

    def ask(self, wanted: Wanted) -> Reading:
        values = {
            "patient_id": wanted.patient_id,
            "accession_number": wanted.accession,
            "since": wanted.since.astimezone(UTC).isoformat(),
            "until": wanted.until.astimezone(UTC).isoformat(),
        }
        bound = {name: values[name] for name in self._names}
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(self._query, bound).mappings().fetchmany(MOST_ROWS + 1)
        except SQLAlchemyError as error:
            raise ContextError(
                f"the database cannot be asked ({type(error).__name__})", field=self.name
            ) from None
        if len(rows) > MOST_ROWS:
            raise ContextError(f"more than {MOST_ROWS:,} rows", field=self.name)
        reading = Reading()
        reading.extend(self._fact(dict(row), wanted) for row in rows)
        return reading

    def _fact(self, row: dict[str, Any], wanted: Wanted) -> Fact | str:
        lacking = {"code", "value", "time"} - row.keys()
        if lacking:
            return f"column {min(lacking)} is missing"
        at = row["time"]
        if isinstance(at, datetime):
            at = (at if at.tzinfo else at.replace(tzinfo=self._zone)).astimezone(UTC)
        else:
            at = moment(_cell(at), self._zone)
        if isinstance(at, str):
            return at
        # A query by accession number alone names its patient itself, or none.
        patient = wanted.patient_id if "patient_id" in self._names else ""
        return Fact(
            code=_cell(row["code"]),
            value=_cell(row["value"]),
            unit=_cell(row.get("unit")),
            at=at,
            patient_id=_cell(row.get("patient_id")) or patient,
            accession=_cell(row.get("accession_number")) or wanted.accession,
        )

    def close(self) -> None:
        self._engine.dispose()


class FhirSource:
    """A FHIR server.

    Args:
        settings: its address and sign-in.
        zone: of times without an offset.

    Raises:
        ParamsError: secret or authority cannot be used.
    """

    def __init__(self, settings: FhirEndpoint, zone: tzinfo) -> None:
        self._settings, self._zone, self.name = settings, zone, settings.url
        settings.secret()
        settings.verification()

    def ask(self, wanted: Wanted) -> Reading:
        if not wanted.patient_id:
            return Reading()
        system = self._settings.identifier_system
        token = (
            f"{_token(system)}|{_token(wanted.patient_id)}" if system else _token(wanted.patient_id)
        )
        reading = Reading()
        dates = f"ge{wanted.since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        try:
            with closing(HttpClient(self._settings)) as client:
                for kind in ("Observation", "DocumentReference"):
                    # With their patients: a server that passes over the identifier gives others'.
                    params: dict[str, str | int] = {
                        "patient.identifier": token,
                        "_include": f"{kind}:patient",
                        "date": dates,
                        "_count": PAGE_SIZE,
                    }
                    bundle = client.json(f"/{kind}", params, FHIR_JSON)
                    if not isinstance(bundle, dict):
                        continue
                    found = read_fhir(bundle, self._zone, system)
                    reading.facts += found.facts
                    reading.dropped += found.dropped
                    if any(link.get("relation") == "next" for link in _links(bundle)):
                        reading.dropped.append("more than one page")
        except (AwayError, DeclinedError) as error:
            raise ContextError(str(error), field=self.name) from None
        return reading

    def close(self) -> None:
        """Nothing is left open."""


def _token(value: str) -> str:
    """A search parameter's value with FHIR's separators escaped (FHIR R4 3.1.1.4.0.1)."""
    return "".join(f"\\{c}" if c in "\\,$|" else c for c in value)


def _links(bundle: Any) -> Sequence[dict[str, Any]]:
    links = bundle.get("link") if isinstance(bundle, dict) else None
    return [each for each in links if isinstance(each, dict)] if isinstance(links, list) else []


def _cell(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _with_password(settings: SqlQuery) -> URL:
    url = make_url(settings.url)
    if not settings.secret_variable:
        return url
    password = os.environ.get(settings.secret_variable)
    if not password:
        raise ParamsError(
            "the password is missing",
            field=settings.secret_variable,
            remedy="Set this environment variable",
        )
    return url.set(password=password)


def _bounded(url: URL, seconds: float) -> dict[str, Any]:
    """Options of the driver that bound the time of a query, and let it read alone."""
    if url.get_backend_name() == "sqlite":
        return {"timeout": seconds}
    if url.get_backend_name() == "postgresql":
        options = (
            f"-c statement_timeout={round(1000 * seconds)} -c default_transaction_read_only=on"
        )
        return {"connect_timeout": max(2, round(seconds)), "options": options}
    return {}


def _read_only(connection: Any, _: object) -> None:
    connection.execute("PRAGMA query_only = ON")


def open_sources(
    sql: Sequence[SqlQuery], fhir: Sequence[FhirEndpoint], zone: tzinfo
) -> list[Source]:
    """Every source that is asked for each study.

    Raises:
        ParamsError: a password, driver or secret is missing.
    """
    return [*(SqlSource(each, zone) for each in sql), *(FhirSource(each, zone) for each in fhir)]
