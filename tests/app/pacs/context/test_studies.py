"""Context of a study: whose facts count, how long it waits, and when it is answered again."""

import pytest
from pydicom.dataset import Dataset

from app.pacs.context.facts import ContextError, Reading
from app.pacs.context.studies import NOTHING, Contexts, version_of
from app.pacs.queue.upkeep import clean, status
from app.pacs.sections.context import ContextSettings
from app.pacs.settings import QueueRetention
from tests.app.pacs.conftest import arrival
from tests.app.pacs.context.conftest import before, fact


class Source:
    name = "a source"

    def __init__(self, *facts):
        self.facts, self.wanted, self.is_away = list(facts), [], False

    def ask(self, wanted):
        self.wanted.append(wanted)
        if self.is_away:
            raise ContextError("away")
        return Reading(list(self.facts))

    def close(self):
        pass


def header(**fields):
    dataset = Dataset()
    known = {"PatientID": "P1", "AccessionNumber": "A1", "StudyDate": "20260301"}
    for name, value in (known | {"StudyTime": "120000.123"} | fields).items():
        setattr(dataset, name, value)
    return dataset


@pytest.fixture
def received(queue):
    queue.add(arrival("1.2.1"))
    return queue.claim()


@pytest.fixture
def finding(queue, book, task, received):
    def find(*sources, again=False, head=None, **fields):
        settings = ContextSettings.model_validate(fields)
        contexts = Contexts(settings, queue, book, sources)
        return contexts.of(received, task, head or header(), again=again)

    return find


def test_facts_of_the_book_and_of_sources_count_and_others_do_not(finding, book):
    book.add([fact(value="3"), fact("wbc", "11", "10*9/L", accession="A1")])
    source = Source(
        fact("8310-5", "38.5", "Cel"),
        fact(value="99", patient_id="P2", accession="A1"),
        fact("11488-4", "Fever.", "", accession="A1"),
    )
    found = finding(source)
    assert found.context.clinical == {"crp": "3.0", "temperature": "38.5", "wbc": "11.0"}
    assert found.context.note == "Fever."
    assert (found.wait, found.owner) == (0, None)
    (wanted,) = source.wanted
    assert (wanted.patient_id, wanted.accession) == ("P1", "A1")
    assert (wanted.until, wanted.since) == (before(0), before(72))


def test_the_time_of_the_study_has_its_zone(finding):
    source = Source()
    finding(source, time_zone="Europe/Berlin")
    finding(source, head=header(TimezoneOffsetFromUTC="-0500"))
    finding(source, head=header(StudyDate=""))
    assert [wanted.until for wanted in source.wanted] == [before(1), before(-5), before(0)]


def test_without_ids_nothing_is_asked(finding):
    source = Source()
    assert finding(source, head=header(PatientID="", AccessionNumber="")) is NOTHING
    assert source.wanted == []


def test_a_study_waits_no_longer_than_it_may(finding, clock, queue, received):
    waits = []
    for _ in range(30):
        found = finding(wait_seconds=60)
        if not found.wait:
            break
        waits.append(found.wait)
        clock.move(found.wait)
    assert sum(waits) == pytest.approx(60)
    assert len(waits) == 10
    assert "crp" in found.context.missing


def test_a_study_with_all_that_its_model_uses_waits_for_nothing(finding, book):
    facts = [fact(), fact("wbc", "1", "10*9/L"), fact("8310-5", "37", "Cel")]
    book.add(facts)
    assert finding(wait_seconds=60).wait == 6
    book.add([fact("note", "Cough.", "")])
    assert finding(wait_seconds=60).wait == 0


def test_a_clock_that_is_set_back_makes_no_study_wait_longer(finding, clock):
    clock.move(-86400)
    assert finding(wait_seconds=60).wait == 0


def test_a_source_that_is_away_is_waited_for_and_then_named(finding, clock):
    source = Source()
    source.is_away = True
    assert finding(source, wait_seconds=60).wait == 6
    clock.move(61)
    found = finding(source, wait_seconds=60)
    assert found.wait == 0
    assert found.context.warnings == ("context: a source could not be asked",)


def test_what_is_left_out_is_counted_once_it_is_answered(finding, book, queue):
    book.add([fact(unit="mmol/L")])
    finding(wait_seconds=60)
    assert status(queue)["counts"] == []
    finding()
    assert status(queue)["counts"][0]["what"] == "context: unit cannot be converted"


def test_what_arrives_during_the_answer_is_looked_at_after_it(finding, book, queue, received, task):
    contexts = Contexts(ContextSettings(), queue, book)
    found = contexts.of(received, task, header(), again=True)
    book.add([fact()])
    queue.finish(received, "answered", "d")
    contexts.recheck(received, found)
    assert queue.claim().id == received.id


def test_the_file_is_kept_as_long_as_it_may_be_answered_again(
    finding, queue, received, clock, tmp_path
):
    finding(again=True, again_hours=2)
    queue.finish(received, "answered", "d")
    for hours, file in ((1.5, "received/1.2.1.dcm"), (1, None)):
        clock.move(3600 * hours)
        clean(queue, tmp_path, QueueRetention())
        with queue.reading() as connection:
            assert connection.exec_driver_sql("SELECT file FROM received").scalar() == file


def test_the_version_is_of_model_and_context(finding, book):
    assert version_of("d", finding().context) == "d"
    book.add([fact()])
    assert version_of("d", finding().context) not in ("d", version_of("e", finding().context))
