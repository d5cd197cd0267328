"""The book: facts by keyed hash, once each, and images that wait for them."""

import sqlite3

from app.pacs.context.book import Book, Owner
from app.pacs.queue.upkeep import rows
from tests.app.pacs.conftest import arrival
from tests.app.pacs.context.conftest import fact


def test_facts_are_found_by_patient_or_accession_number(book):
    lab = fact(value="1", patient_id="P1", accession="LAB9")
    order = fact(value="2", accession="A1")
    other = fact(value="3", patient_id="P2", accession="A1")
    assert book.add([lab, order, other, lab]) == 3
    assert book.add([lab]) == 0
    assert [f.value for f in book.about(Owner("P1", "A1"))] == ["1", "2"]
    assert [f.value for f in book.about(Owner("P1", ""))] == ["1"]
    assert [f.value for f in book.about(Owner("", "A1"))] == ["2"]
    assert book.about(Owner("", "")) == []


def test_another_secret_finds_nothing_and_no_id_is_in_the_file(book, queue, tmp_path):
    book.add([fact(patient_id="Patient-4711", accession="ACC-0815")])
    assert Book(queue, b"t" * 32).about(Owner("Patient-4711", "")) == []
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert "1988-5" in dump
    assert "4711" not in dump
    assert "0815" not in dump


def test_what_is_old_is_forgotten(book, clock):
    book.add([fact()])
    clock.move(3600)
    book.add([fact(value="2")])
    clock.move(3600)
    book.forget(1.5)
    assert [f.value for f in book.about(Owner("P1", ""))] == ["2"]


def test_an_image_that_waits_or_was_answered_is_woken_by_its_facts_alone(book, queue, clock):
    for uid in ("1.2.1", "1.2.2", "1.2.3"):
        queue.add(arrival(uid))
    waiting, answered, other = queue.claim(), queue.claim(), queue.claim()
    until = clock.now.replace(hour=20)
    for row, patient in ((waiting, "P1"), (answered, "P1"), (other, "P2")):
        book.await_more(row, Owner(patient, ""), until)
    queue.wait(waiting, 200)
    queue.finish(answered, "answered", "d")
    queue.finish(other, "answered", "d")
    assert queue.claim() is None
    book.add([fact(patient_id="P1")])
    assert {queue.claim().id, queue.claim().id} == {waiting.id, answered.id}
    assert queue.claim() is None
    assert [row["attempts"] for row in rows(queue, 3)] == [1, 1, 1]


def test_nothing_is_woken_after_its_time(book, queue, clock):
    queue.add(arrival("1.2.1"))
    row = queue.claim()
    book.await_more(row, Owner("P1", ""), clock.now.replace(hour=13))
    queue.finish(row, "answered", "d")
    clock.move(2 * 3600)
    book.add([fact()])
    assert queue.claim() is None
    assert book.last(Owner("P1", "")) == 1
