"""Drop folders: each file once, deleted when its facts are in the book, set aside otherwise."""

import json

import pytest

from app.pacs.context.book import Owner
from app.pacs.context.intake import Intake
from app.pacs.queue.upkeep import status
from app.pacs.sections.context import ContextSettings
from cxr_mm.core.errors import LogError, StorageError
from tests.app.pacs.context.test_csv_table import HEAD, ROW
from tests.app.pacs.context.test_fhir_bundle import observation
from tests.app.pacs.context.test_hl7_message import CRP, MSH, OBR, PID, message


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "drop"
    path.mkdir()
    return path


@pytest.fixture
def intake(folder, book, queue):
    def make(kind, **fields):
        drop = {"path": folder, "format": kind, **fields}
        return Intake(ContextSettings.model_validate({"folders": [drop]}), book, queue)

    return make


def test_a_file_is_taken_and_deleted(intake, folder, book):
    for name in ("a.csv", "b.csv.part", ".c.csv"):
        (folder / name).write_text(HEAD + ROW)
    assert intake("csv").look() == 1
    assert sorted(p.name for p in folder.iterdir()) == [".c.csv", "b.csv.part"]
    assert len(book.about(Owner("P1", ""))) == 1


def test_hl7_files_and_fhir_files_are_taken(intake, folder, book):
    (folder / "a.hl7").write_bytes(message(MSH, PID, OBR, CRP))
    alone = observation(subject={"identifier": {"value": "P1"}})
    (folder / "a.json").write_text(json.dumps(alone))
    assert intake("hl7").look() == intake("fhir").look() == 1
    assert [f.code for f in book.about(Owner("P1", ""))] == ["1988-5", "1988-5"]


def test_a_bad_file_is_set_aside_with_its_reason_and_holds_up_no_other(intake, folder, book, queue):
    (folder / "a.csv").write_bytes(b"\xff\xfe")
    (folder / "b.csv").write_text(HEAD + ROW + ",,,,,\n")
    (folder / "c.csv").write_bytes(b"x" * 2000)
    assert intake("csv", file_bytes=1000).look() == 3
    assert sorted(p.name for p in folder.iterdir()) == ["rejected"]
    aside = sorted(p.name for p in (folder / "rejected").iterdir())
    assert aside == ["a.csv", "a.csv.txt", "c.csv", "c.csv.txt"]
    assert "not text in UTF-8" in (folder / "rejected/a.csv.txt").read_text()
    assert len(book.about(Owner("P1", ""))) == 1
    assert {c["what"]: c["number"] for c in status(queue)["counts"]} == {
        "context: not text in UTF-8": 1,
        "context: more than 1,000 bytes": 1,
        "context: no time": 1,
    }


def test_a_link_is_not_followed(intake, folder, tmp_path):
    (tmp_path / "secret.csv").write_text(HEAD + ROW)
    (folder / "a.csv").symlink_to(tmp_path / "secret.csv")
    assert intake("csv").look() == 0
    assert (tmp_path / "secret.csv").exists()


def test_a_file_stays_while_the_database_is_away(intake, folder, book, monkeypatch):
    (folder / "a.csv").write_text(HEAD + ROW)
    taking = intake("csv")

    def away(_):
        raise LogError("away")

    with monkeypatch.context() as patched:
        patched.setattr(book, "add", away)
        with pytest.raises(LogError):
            taking.look()
    assert taking.look() == 1


def test_a_file_that_cannot_be_taken_is_said_and_holds_up_no_other(
    intake, folder, book, monkeypatch
):
    (folder / "a.csv").write_text(HEAD + ROW)
    (folder / "b.csv").write_text(HEAD + ROW.replace("P1", "P2"))
    read = type(folder).read_bytes

    def refused(path):
        if path.name == "a.csv":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr("pathlib.Path.read_bytes", refused)
    with pytest.raises(StorageError, match=r"1 of its files .*Permission denied"):
        intake("csv").look()
    assert len(book.about(Owner("P2", ""))) == 1
    assert [p.name for p in folder.iterdir()] == ["a.csv"]
