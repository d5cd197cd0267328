"""A CSV table of facts: patient_id, accession_number, code, value, unit, time."""

import csv
import io
from datetime import tzinfo

from app.pacs.context.facts import ContextError, Fact, Reading, moment

REQUIRED, OPTIONAL = {"code", "value", "time"}, {"patient_id", "accession_number", "unit"}
MOST_ROWS = 200_000
LONGEST_FIELD = 1 << 17


def read_csv(data: bytes, zone: tzinfo) -> Reading:
    """Read a table; a row that cannot be used is dropped alone.

    Args:
        data: CSV in UTF-8, with a row of headings; commas or semicolons.
        zone: of times without an offset.

    Raises:
        ContextError: it is no such table.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ContextError("not text in UTF-8", remedy="Write the table in UTF-8") from None
    head = text.partition("\n")[0]
    csv.field_size_limit(LONGEST_FIELD)
    rows = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=";" if ";" in head else ",", strict=True
    )
    reading = Reading()
    try:
        columns = set(rows.fieldnames or ())
        lacking = REQUIRED - columns
        if lacking or not columns & {"patient_id", "accession_number"}:
            raise ContextError(
                f"columns are missing: {', '.join(sorted(lacking)) or 'patient_id'}",
                remedy=f"Give {', '.join(sorted(REQUIRED | OPTIONAL))}",
            )
        for number, row in enumerate(rows):
            if number >= MOST_ROWS:
                raise ContextError(f"more than {MOST_ROWS:,} rows", remedy="Divide the table")
            reading.add(_fact(row, zone))
    except csv.Error:
        raise ContextError("not CSV", remedy="Quote fields that hold separators") from None
    return reading


def _fact(row: dict[str, str | None], zone: tzinfo) -> Fact | str:
    cells = {name: (row.get(name) or "").strip() for name in REQUIRED | OPTIONAL}
    at = moment(cells["time"], zone)
    if isinstance(at, str):
        return at
    return Fact(
        code=cells["code"],
        value=cells["value"],
        unit=cells["unit"],
        at=at,
        patient_id=cells["patient_id"],
        accession=cells["accession_number"],
    )
