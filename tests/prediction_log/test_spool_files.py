"""Spool files: who has them, and what a crash or a full disk leaves of their lines."""

import math
from datetime import UTC, datetime

import pytest

from cxr_mm.core.record import Outcome
from cxr_mm.prediction_log import PredictionLog
from cxr_mm.prediction_log.spool import Spool, SpoolFile, decoded, encoded

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def outcome(comment=""):
    return Outcome(study_hash="s", finding="icu", label=1, recorded_at=NOON, comment=comment)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def spool(folder):
    created = Spool(folder)
    yield created
    created.close()


def test_a_line_gives_back_what_it_was_made_of():
    stored = outcome("line\nbreak, “quotes” and \x00")
    line = encoded(stored)
    assert b"\n" not in line
    assert decoded(line) == stored


def test_an_event_comes_back_with_its_kind(refusal):
    stored = refusal(kind="bad_input", field="age")
    assert decoded(encoded(stored)) == stored


def test_a_record_keeps_every_digit_and_what_is_no_number(url, answer):
    with PredictionLog(url, "a secret that is long enough") as log:
        record = log.record(answer())
    assert decoded(encoded(record)) == record
    odd = record.model_copy(update={"note_embedding": (math.nan, -math.inf, 0.1)})
    assert str(decoded(encoded(odd)).note_embedding) == "(nan, -inf, 0.1)"


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-1], lambda b: b.replace(b"icu", b"flu"), bytes.upper]
)
def test_a_line_that_is_not_whole_gives_nothing(spoil):
    assert decoded(spoil(encoded(outcome()))) is None


def test_file_and_folder_are_for_their_owner_alone(spool, folder):
    spool.append([b"x"])
    spool.set_aside([b"x"])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}
    assert len(list(folder.iterdir())) == 2


def test_a_file_is_taken_over_when_its_process_has_left_it_and_not_before(spool, folder):
    spool.append([b"one", b"two"])
    other = Spool(folder)
    assert other.oldest() is None
    spool.close()
    other.take_over()
    assert other.waiting == 2
    assert list(other.oldest().read()) == [b"one", b"two"]
    other.close()


def test_what_is_written_after_the_oldest_was_asked_for_goes_to_another_file(spool):
    spool.append([b"one"])
    first = spool.oldest()
    spool.append([b"two"])
    assert list(first.read()) == [b"one"]
    spool.drop(first)
    assert list(spool.oldest().read()) == [b"two"]
    assert spool.waiting == 1


def test_a_line_cut_short_takes_no_other_with_it(spool, folder):
    spool.append([b"one"])
    (path,) = folder.iterdir()
    with path.open("ab") as stream:
        stream.write(b"\nha")
    spool.append([b"two"])
    assert list(spool.oldest().read()) == [b"one", b"ha", b"two"]


def test_on_a_full_disk_lines_are_written_whole_or_not_at_all(spool, folder, full_disk):
    spool.append([b"one"])
    (path,) = folder.iterdir()
    with full_disk(path.stat().st_size + 8), pytest.raises(OSError, match="too large"):
        spool.append([b"two", b"three and more"])
    assert spool.waiting == 1
    spool.append([b"four"])
    assert list(spool.oldest().read()) == [b"one", b"four"]


def test_a_file_removed_under_its_process_is_still_read_and_another_begun(spool, folder):
    spool.append([b"one"])
    next(folder.iterdir()).unlink()
    folder.rmdir()
    spool.append([b"two"])
    assert len(list(folder.iterdir())) == 1
    assert list(spool.oldest().read()) == [b"one"]
    assert spool.waiting == 2


def test_a_folder_that_cannot_be_made_is_found_out_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        Spool(tmp_path / "file" / "spool")


def test_an_empty_file_begun_and_left_is_taken_over_and_removed(spool, folder):
    SpoolFile.begun(folder).close()
    spool.take_over()
    spool.drop(spool.oldest())
    assert list(folder.iterdir()) == []
