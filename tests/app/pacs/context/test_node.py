"""The node with clinical context: used, waited for, and answered again with what comes later."""

import socket
import sqlite3
import time

import pytest

from app.pacs.context.mllp import END, START
from app.pacs.objects.sop_classes import SOP_CLASSES
from benchmarks.system.pacs_peers import free_port
from cxr_mm.prediction_log import open_log
from tests.app.pacs.conftest import stored
from tests.app.pacs.context.test_csv_table import HEAD
from tests.app.pacs.context.test_hl7_message import MSH, message, obx
from tests.app.pacs.test_node import archive, phantoms, running  # noqa: F401  fixtures


@pytest.fixture
def node(running, tmp_path):  # noqa: F811
    drop, labs = tmp_path / "drop", tmp_path / "labs.db"
    drop.mkdir()
    with sqlite3.connect(labs) as connection:
        connection.execute("CREATE TABLE labs (patient, code, value, unit, time)")
        row = ("P0", "8310-5", 101.3, "[degF]", "2026-03-01T10:00Z")
        connection.execute("INSERT INTO labs VALUES (?, ?, ?, ?, ?)", row)
    connection.close()
    query = "SELECT code, value, unit, time FROM labs WHERE patient = :patient_id"
    context = {
        "folders": [{"path": "drop", "format": "csv"}],
        "sql": [{"url": f"sqlite:///{labs}", "query": query}],
        "mllp": {"port": free_port()},
        "keep_hours": 100000,
    }
    made = running(context=context)
    made.fields["rules"][0]["answer_again"] = True
    made.write(made.fields)
    return made


def drop(node, *rows):
    whole = node.folder / "drop" / "new.part"
    whole.write_text(HEAD + "".join(f"{row}\n" for row in rows))
    whole.rename(whole.with_suffix(".csv"))
    until = time.monotonic() + 30
    while list(whole.parent.glob("*.csv")):
        assert time.monotonic() < until
        time.sleep(0.1)


def send_hl7(node, *observations):
    port = node.fields["context"]["mllp"]["port"]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        data = message(MSH, "PID|1||P0", "OBR|1", *observations)
        connection.sendall(START + data + END)
        return connection.recv(4096)


def reports(archive, number):  # noqa: F811
    until = time.monotonic() + 60
    while len(archive.got) < 3 * number and time.monotonic() < until:
        time.sleep(0.2)
    assert len(archive.got) == 3 * number
    return [d for d in archive.got if d.SOPClassUID == SOP_CLASSES["sr"]]


def test_context_is_used_and_a_later_one_makes_a_new_version(
    node,
    archive,  # noqa: F811
    phantoms,  # noqa: F811
    tmp_path,
):
    node.start()
    drop(node, "P0,,1988-5,5.5,mg/dL,2026-03-01T11:00", "P0,,1988-5,9,mmol/L,2026-03-01T11:30")
    assert stored(node.port, phantoms[0]) == [0]
    (first,) = reports(archive, 1)
    assert "PredecessorDocumentsSequence" not in first
    assert "context: crp: left out: unit 'mmol/L' cannot be converted" in first.to_json()
    with open_log(f"sqlite:///{tmp_path / 'log.db'}") as log:
        (record,) = log.read_window("synthetic")
    assert (record.clinical["crp"], record.clinical["temperature"]) == (55, 38.5)
    assert record.clinical["age"] == 63

    assert b"MSA|AA|M1|" in send_hl7(node, obx(code="6690-2^WBC^LN", value="19", unit="10*3/uL"))
    _, second = reports(archive, 2)
    (study,) = second.PredecessorDocumentsSequence
    (reference,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert second.SOPInstanceUID != first.SOPInstanceUID

    drop(node, "P0,,2160-0,90,umol/L,2026-03-01T11:00")  # which the model does not use
    drop(node, "P9,,1988-5,90,mg/L,2026-03-01T11:00")  # of another patient
    time.sleep(3)
    assert node.end() == 0
    node.start()
    time.sleep(3)
    assert len(archive.got) == 6
    assert "Phantom" not in (tmp_path / "out.txt").read_text()
    assert node.settled(1)["received"] == {"answered": 1}


def test_a_study_waits_for_its_context(node, archive, phantoms):  # noqa: F811
    node.fields["context"] |= {"wait_seconds": 60}
    node.write(node.fields)
    node.start()
    assert stored(node.port, phantoms[0]) == [0]
    time.sleep(2)
    assert archive.got == []
    drop(
        node,
        "P0,,1988-5,12,mg/L,2026-03-01T11:00",
        "P0,,6690-2,12,10*9/L,2026-03-01T11:00",
        "P0,,8867-4,90,/min,2026-03-01T11:00",
        "P0,,59408-5,93,%,2026-03-01T11:00",
        "P0,,1751-7,30,g/L,2026-03-01T11:00",
    )
    reports(archive, 1)
    assert node.settled(1)["received"] == {"answered": 1}
