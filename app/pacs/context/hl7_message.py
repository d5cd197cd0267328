"""HL7 v2 messages: results (ORU) and orders (ORM, OML) become facts, and each gets its answer."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Any, Literal

import hl7

from app.pacs.context.facts import ContextError, Fact, Reading, moment

Code = Literal["AA", "AE", "AR"]
"""Accepted; in error, so that the sender may send it again; rejected (HL7 table 0008)."""
TYPES = ("ORU", "ORM", "OML")
CHARACTER_SETS = {
    "": "utf-8", "ASCII": "ascii", "UNICODE UTF-8": "utf-8", "UTF-8": "utf-8",
    "8859/1": "latin-1", "8859/15": "iso8859-15", "8859/2": "iso8859-2",
}  # fmt: skip
"""MSH-18 (HL7 table 0211) → Python's name."""
HEAD = re.compile(rb"MSH([!-/:-@\[-`{-~])([!-/:-@\[-`{-~]{4,5})\1")
"""Segment, field separator, the other separators."""
TEXTS, NUMBERS = ("TX", "FT", "ST"), ("NM", "SN")
DELETED, USABLE = ("D", "W", "X"), ("F", "C", "P", "U", "R", "")
"""Status of an observation (OBX-11, table 0085) that takes it back, and that lets it count."""
MOST_SEGMENTS = 5000


class RejectedError(ContextError):
    """A message of a kind that is not taken, or that is none (AR)."""


def messages_of(data: bytes) -> Iterator[bytes]:
    """The messages of a file, which may hold several, with batch segments between them.

    Raises:
        RejectedError: it holds none.
    """
    lines = re.split(rb"[\r\n]+", data.strip(b"\x0b\x1c\r\n\xef\xbb\xbf "))
    message: list[bytes] = []
    if not any(line.startswith(b"MSH") for line in lines):
        raise RejectedError("no HL7 message", remedy="Write messages of version 2 that begin MSH")
    for line in lines:
        if line[:3] == b"MSH" and message:
            yield b"\r".join(message)
            message = []
        if line[:3] not in (b"FHS", b"BHS", b"BTS", b"FTS") and (message or line[:3] == b"MSH"):
            message.append(line)
    yield b"\r".join(message)


def read_hl7(data: bytes, zone: tzinfo, authority: str = "") -> Reading:
    """Read one message; an observation that cannot be used is dropped alone.

    Args:
        data: the message, segments ended by a carriage return.
        zone: of times without an offset.
        authority: assigning authority of the patient id; empty takes the first id.

    Raises:
        RejectedError: it is none, or of another type than ORU, ORM and OML.
        ContextError: it names no patient.
    """
    message = parsed(data)
    if _part(message, "MSH", 9) not in TYPES:
        raise RejectedError("another type of message", remedy=f"Send {', '.join(TYPES)}")
    patient = _patient_id(message, authority)
    if not patient:
        raise ContextError("no patient id (PID-3)", remedy="Send PID-3 with the id of the images")
    reading, ordered, accession = Reading(), "", ""
    for segment in message:
        name = str(segment[0])
        if name == "OBR":
            ordered = _text(segment, 7) or _text(segment, 22)
            accession = _text(segment, 18) or accession
        elif name == "ORC":
            ordered = ordered or _text(segment, 9)
        elif name == "OBX":
            reading.extend(_facts(segment, patient, accession, ordered, zone))
    return reading


def parsed(data: bytes) -> Any:
    """A message, split.

    Raises:
        RejectedError: it cannot be.
    """
    data = data.strip().replace(b"\r\n", b"\r").replace(b"\n", b"\r")
    separators = HEAD.match(data)
    if separators is None or len(set(separators[1] + separators[2])) < len(separators[2]) + 1:
        raise RejectedError("no MSH segment with separators", remedy="Send HL7 version 2")
    if data.count(b"\r") > MOST_SEGMENTS:
        raise RejectedError("too many segments", remedy="Send fewer results in one message")
    fields = data.partition(b"\r")[0].split(separators[1])
    named = fields[17].decode("ascii", "replace") if len(fields) > 17 else ""
    encoding = CHARACTER_SETS.get(named.partition(separators[2][1:2].decode())[0].strip().upper())
    if encoding is None:
        raise RejectedError("unknown character set (MSH-18)", remedy="Send UNICODE UTF-8")
    try:
        return hl7.parse(data.decode(encoding))
    except UnicodeDecodeError:
        raise RejectedError(
            "the text is not of its character set", remedy="Name it in MSH-18"
        ) from None
    except (hl7.HL7Exception, LookupError, ValueError, RecursionError, TypeError):
        raise RejectedError("the message cannot be split", remedy="Send HL7 version 2") from None


def answer_to(data: bytes, code: Code, reason: str = "") -> bytes:
    """The acknowledgement of a message (ACK).

    Args:
        data: the message; a minimal header answers one that is none.
        code: accepted, in error or rejected.
        reason: for people; it quotes nothing of the message.
    """
    now = f"{datetime.now(UTC):%Y%m%d%H%M%S+0000}"
    try:
        message = parsed(data)
        names = [_part(message, "MSH", field) for field in (5, 6, 3, 4)]
        control, version = _part(message, "MSH", 10), _part(message, "MSH", 12) or "2.5"
        trigger, processing = _part(message, "MSH", 9, 1), _part(message, "MSH", 11) or "P"
    except RejectedError:
        names, control, version, trigger, processing = [""] * 4, "", "2.5", "", "P"
    kind = f"ACK^{trigger}^ACK" if trigger else "ACK"
    head = ["MSH", "^~\\&", *map(_escaped, names), now, "", kind, f"A{control}"[:20]]
    segments = ["|".join([*head, processing, version]), f"MSA|{code}|{control}|{_escaped(reason)}"]
    return "".join(f"{segment}\r" for segment in segments).encode()


def _escaped(text: str) -> str:
    return re.sub(r"[|^~\\&\r\n]", " ", text)


def _patient_id(message: Any, authority: str) -> str:
    try:
        ids = _segment(message, "PID")(3)
    except (KeyError, IndexError):
        return ""
    for each in ids:
        parts = each if isinstance(each, list) else [each]
        issuer = parts[3] if len(parts) > 3 else ""
        named = issuer[0] if isinstance(issuer, list) and issuer else issuer
        if not authority or str(named) == authority:
            return str(parts[0][0] if isinstance(parts[0], list) else parts[0]).strip()
    return ""


def _facts(
    segment: Any, patient: str, accession: str, ordered: str, zone: tzinfo
) -> Iterator[Fact | str]:
    """Facts of an observation (OBX), one for each code system that names it by LOINC."""
    status, kind = _text(segment, 11).upper(), _text(segment, 2)
    if status not in (*DELETED, *USABLE):
        yield "observation without a result"
        return
    at = moment(_text(segment, 14) or ordered, zone)
    if isinstance(at, str):
        yield at
        return
    code = _loinc(segment)
    if not code:
        yield "no LOINC code"
        return
    value = "" if status in DELETED else _value(segment, kind)
    if not value and status not in DELETED:
        yield "no value"
        return
    unit = _component(segment, 6, 0)
    yield Fact(code, value, unit, at, patient, accession)


def _loinc(segment: Any) -> str:
    """The LOINC code of OBX-3: first triplet, or the alternate one."""
    for first in (0, 3):
        if _component(segment, 3, first + 2).upper() in ("LN", "LOINC"):
            return _component(segment, 3, first)
    return ""


def _value(segment: Any, kind: str) -> str:
    """OBX-5 as one text: a number with its comparator, or lines of text."""
    if kind == "SN":
        comparator, number = _component(segment, 5, 0), _component(segment, 5, 1)
        return "" if _component(segment, 5, 3) else f"{comparator}{number}"
    if kind in ("CE", "CWE"):
        return _component(segment, 5, 0)
    if kind not in (*TEXTS, *NUMBERS):
        return ""
    try:
        lines = [str(line) for line in segment(5)]
    except IndexError:
        return ""
    return "\n".join(unescaped(line) for line in lines).strip()


def unescaped(text: str) -> str:
    """Text without HL7's escape sequences (HL7 2.7); unknown ones are dropped."""
    plain = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\", ".br": "\n"}
    return re.sub(r"\\([^\\]{1,20})\\", lambda match: plain.get(match[1], ""), text)


def _text(segment: Any, field: int) -> str:
    return _component(segment, field, 0)


def _part(message: Any, name: str, field: int, component: int = 0) -> str:
    try:
        return _component(_segment(message, name), field, component)
    except KeyError:
        return ""


def _segment(message: Any, name: str) -> Any:
    """The first segment of a name.

    Raises:
        KeyError: there is none.
    """
    for segment in message:
        if str(segment[0]) == name:
            return segment
    raise KeyError(name)


def _component(segment: Any, field: int, component: int) -> str:
    """One component of a field's first repetition; empty without one."""
    try:
        found = segment(field)
        for index in (0, component):
            if not isinstance(found, list):
                return str(found).strip() if index == component else ""
            found = found[index]
        if isinstance(found, list):
            found = found[0]
    except (IndexError, KeyError):
        return ""
    return str(found).strip()
