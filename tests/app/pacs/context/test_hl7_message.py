"""HL7 v2: hand-written messages give the right values, and hostile ones a typed refusal."""

import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from app.pacs.context.facts import ContextError, Fact
from app.pacs.context.hl7_message import (
    RejectedError,
    answer_to,
    messages_of,
    read_hl7,
    unescaped,
)

MSH = r"MSH|^~\&|LAB|HOSP|NODE|RAD|20260301100500||ORU^R01^ORU_R01|M1|P|2.5|||||DE|UNICODE UTF-8"
PID = "PID|1||P1^^^HOSP^MR~999^^^STATE^SS||Doe^Jane"
OBR = "OBR|1|O1|F1|24323-8^Panel^LN|||20260301095500+0100|||||||||||A1"
CRP = "OBX|1|NM|1988-5^CRP^LN||12.5|mg/L|0-5|H|||F|||20260301100000"


def message(*segments):
    return "\r".join(segments).encode() + b"\r"


def obx(kind="NM", code="1988-5^CRP^LN", value="12.5", unit="mg/L", status="F", at="202603011000"):
    return f"OBX|1|{kind}|{code}||{value}|{unit}|||||{status}|||{at}"


def read(*observations, **options):
    return read_hl7(message(MSH, PID, OBR, *observations), ZoneInfo("Europe/Berlin"), **options)


def test_an_observation_is_a_fact():
    reading = read(CRP)
    at = datetime(2026, 3, 1, 9, tzinfo=UTC)
    assert reading.facts == [Fact("1988-5", "12.5", "mg/L", at, "P1", "A1")]
    assert reading.dropped == []


def test_the_time_is_that_of_the_specimen_where_it_has_none():
    (fact,) = read(obx(at="")).facts
    assert fact.at == datetime(2026, 3, 1, 8, 55, tzinfo=UTC)


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (obx("SN", value="<^5"), ("<5", "mg/L", "1988-5")),
        (obx("NM", "CRP^C-reactive^L^1988-5^CRP^LN"), ("12.5", "mg/L", "1988-5")),
        (obx(unit="mg/dL^^UCUM"), ("12.5", "mg/dL", "1988-5")),
        (
            obx("TX", "11488-4^Note^LN", r"Fever\.br\Temp \T\ cough~since Monday", ""),
            ("Fever\nTemp & cough\nsince Monday", "", "11488-4"),
        ),
        (
            obx("CWE", "72166-2^Smoker^LN", "LA18978-9^Never^LN", ""),
            ("LA18978-9", "", "72166-2"),
        ),
        (obx(status="D"), ("", "mg/L", "1988-5")),
    ],
)
def test_values_are_read_by_their_type(observation, expected):
    (fact,) = read(observation).facts
    assert (fact.value, fact.unit, fact.code) == expected


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (obx(code="CRP^C-reactive^L"), "no LOINC code"),
        (obx(status="I"), "observation without a result"),
        (obx(value=""), "no value"),
        (obx("SN", value="^1^:^128"), "no value"),
        (obx("ED", value="^application^pdf^Base64^AAAA"), "no value"),
        (obx(at="20260301"), "no time of day"),
        ("OBX|1", "no LOINC code"),
    ],
)
def test_an_observation_that_cannot_be_used_is_dropped_alone(observation, reason):
    reading = read(observation, CRP)
    assert (len(reading.facts), reading.dropped) == (1, [reason])


def test_the_patient_id_is_of_the_authority_that_is_named():
    assert read(CRP, authority="STATE").facts[0].patient_id == "999"
    with pytest.raises(ContextError, match="no patient id"):
        read(CRP, authority="ELSEWHERE")


def test_a_text_in_latin_1_is_read_by_its_character_set():
    head = MSH.replace("UNICODE UTF-8", "8859/1")
    data = "\r".join([head, PID, OBR, obx("TX", "11488-4^N^LN", "Übelkeit", "")]).encode("latin-1")
    assert read_hl7(data, UTC).facts[0].value == "Übelkeit"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PID|1",
        b"MSH",
        b"MSH||||||||||||",
        message(MSH.replace("ORU^R01^ORU_R01", "ADT^A01"), PID),
        message(MSH.replace("UNICODE UTF-8", "ISO IR87"), PID),
        message(MSH, PID) + "Ü".encode("latin-1"),
        message(MSH, PID, *["NTE|1"] * 6000),
        message(MSH.replace("^~", "||"), PID),
    ],
)
def test_what_is_no_result_is_rejected(data):
    with pytest.raises(RejectedError):
        read_hl7(data, UTC)


def test_a_message_without_a_patient_is_in_error():
    with pytest.raises(ContextError) as raised:
        read_hl7(message(MSH, OBR, CRP), UTC)
    assert not isinstance(raised.value, RejectedError)


def mutated(draw, data):
    data = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(data))
        change = draw.choice(("set", "cut", "grow"))
        if change == "set":
            data[at] = draw.randrange(256)
        elif change == "cut" and len(data) > 40:
            del data[at : at + draw.randint(1, 30)]
        else:
            data[at:at] = draw.choice((b"|", b"^", b"~", b"\\", b"&", b"\r", b"MSH|")) * 20
    return bytes(data)


def test_mutated_messages_are_read_or_refused():
    draw, good = random.Random(3), message(MSH, PID, OBR, CRP, obx("SN", value="<^5"))
    taken = 0
    for _ in range(2000):
        data = mutated(draw, good)
        assert answer_to(data, "AA").startswith(b"MSH|^~\\&|")
        try:
            taken += bool(read_hl7(data, UTC))
        except ContextError:
            continue
    assert 100 < taken < 1900


def test_a_file_may_hold_several_messages_in_a_batch():
    lines = ["FHS|^~\\&", "BHS|^~\\&", MSH, PID, OBR, CRP, MSH, PID, OBR, CRP, "BTS|2", "FTS|1"]
    found = list(messages_of("\r\n".join(lines).encode()))
    assert [len(read_hl7(each, UTC).facts) for each in found] == [1, 1]
    with pytest.raises(RejectedError):
        list(messages_of(b"nothing"))


def test_an_answer_names_the_message_and_swaps_sender_and_receiver():
    segments = answer_to(message(MSH, PID), "AE", "no patient id").decode().split("\r")
    head = segments[0].split("|")
    assert head[2:6] == ["NODE", "RAD", "LAB", "HOSP"]
    assert head[8:12] == ["ACK^R01^ACK", "AM1", "P", "2.5"]
    assert segments[1:] == ["MSA|AE|M1|no patient id", ""]
    assert b"MSA|AR||" in answer_to(b"junk", "AR")


def test_escapes_are_resolved_once():
    assert unescaped(r"a\F\b\S\c\T\d\R\e\E\f\X41\g") == "a|b^c&d~e\\fg"
    assert unescaped(r"\E\F\E") == "\\F\\E"
