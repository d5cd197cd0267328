"""CSV: rows become facts, one that cannot be used is dropped alone, another table is refused."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from app.pacs.context.csv_table import read_csv
from app.pacs.context.facts import ContextError, Fact

HEAD = "patient_id,accession_number,code,value,unit,time\n"
ROW = "P1,,1988-5,1,mg/L,2026-03-01T12:00\n"


def test_a_row_is_a_fact():
    text = HEAD + 'P1,A1,1988-5,"12,5",mg/L,2026-03-01T12:00\nP2,,note,"a\nb",,2026-03-01 10:00Z\n'
    reading = read_csv(b"\xef\xbb\xbf" + text.encode(), ZoneInfo("Europe/Berlin"))
    assert reading.facts == [
        Fact("1988-5", "12,5", "mg/L", datetime(2026, 3, 1, 11, tzinfo=UTC), "P1", "A1"),
        Fact("note", "a\nb", "", datetime(2026, 3, 1, 10, tzinfo=UTC), "P2"),
    ]
    assert reading.dropped == []


def test_semicolons_separate_as_well():
    (fact,) = read_csv(b"accession_number;code;value;time\nA1;wbc;3;20260301120000\n", UTC).facts
    assert (fact.accession, fact.code, fact.unit) == ("A1", "wbc", "")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("P1,,1988-5,1,mg/L,2026-03-01", "no time of day"),
        ("P1,,1988-5,1,mg/L,20260301", "no time of day"),
        ("P1,,1988-5,1,mg/L,", "no time"),
        ("P1,,1988-5,1,mg/L,yesterday", "unreadable time"),
        ("P1,,1988-5,1,mg/L,202613011200", "unreadable time"),
        (",,1988-5,1,mg/L,2026-03-01T12:00", "no patient id and no accession number"),
        ("P1,,,1,mg/L,2026-03-01T12:00", "no code"),
        (f"{'P' * 65},,1988-5,1,mg/L,2026-03-01T12:00", "id too long"),
        (f"P1,,1988-5,{'1' * 20001},mg/L,2026-03-01T12:00", "value too long"),
        ("P\x00,,1988-5,1,mg/L,2026-03-01T12:00", "unprintable characters"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_alone(row, reason):
    reading = read_csv(f"{HEAD}{row}\n{ROW}".encode(), UTC)
    assert (len(reading.facts), reading.dropped) == (1, [reason])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a,b\n1,2\n",
        b"code,value,time\n1,2,3\n",
        HEAD.encode("utf-16"),
        HEAD.encode() + b"M\xfcller",
        HEAD.encode() + b'"' + b"x" * 300_000,
        HEAD.encode() + b'P1,,"1988',
    ],
)
def test_another_table_is_refused(data):
    with pytest.raises(ContextError):
        read_csv(data, UTC)
