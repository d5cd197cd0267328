"""The poller: every radiograph once, from where it stopped, whatever an archive answers."""

import json

import pytest

from app.pacs.dicomweb.client import AwayError
from app.pacs.dicomweb.poll import Poller
from app.pacs.header import HeaderReader
from app.pacs.queue.upkeep import status
from app.pacs.storage import Storage
from tests.app.pacs.conftest import DX, radiograph
from tests.app.pacs.dicomweb.conftest import bytes_of, multipart

ROOT = "/dicom-web"


def attribute(value):
    return {"vr": "UI", "Value": [value]}


class Archived:
    """Studies as an archive tells of them; paging by offset and limit, or not at all."""

    def __init__(self, web):
        self.web, self.studies, self.pages = web, {}, True

    def add(self, *images):
        for image in images:
            key = (image.StudyInstanceUID, image.SeriesInstanceUID)
            self.studies.setdefault(key, []).append(image)
        self.list(f"{ROOT}/studies", self.study_items())
        for (study, series), held in self.studies.items():
            below = f"{ROOT}/studies/{study}/series"
            self.list(below, [{"0020000E": attribute(series), "00080060": attribute("DX")}])
            items = [
                {"00080018": attribute(i.SOPInstanceUID), "00080016": attribute(i.SOPClassUID)}
                for i in held
            ]
            self.list(f"{below}/{series}/instances", items)
            for image in held:
                body, kind = multipart(bytes_of(image))
                self.web.set(f"{below}/{series}/instances/{image.SOPInstanceUID}", body, kind=kind)

    def study_items(self):
        return [
            {"0020000D": attribute(study), "00201208": {"vr": "IS", "Value": [len(held)]}}
            for (study, _), held in self.studies.items()
        ]

    def list(self, path, items):
        def answer(query):
            asked = dict(part.split("=") for part in query.split("&"))
            first = int(asked["offset"]) if self.pages else 0
            page = items[first : first + 2] if self.pages else items
            kind = {"Content-Type": "application/dicom+json"}
            return (200, kind, json.dumps(page).encode()) if page else (204, {}, b"")

        self.web.answers[path] = answer


@pytest.fixture
def archived(web):
    return Archived(web)


@pytest.fixture
def poller(web_settings, queue):
    with HeaderReader() as headers:
        yield lambda: Poller(
            web_settings, web_settings.peers[0], Storage(web_settings.storage), queue, headers
        )


def counts(queue):
    return {c["what"]: c["number"] for c in status(queue)["counts"]}


def fetched(web):
    return [p.rpartition("/")[2] for _, p, _, _ in web.asked if "/instances/" in p]


def test_each_image_is_fetched_once_in_however_many_pages(archived, web, poller, queue):
    images = [radiograph(f"1.2.{n}", seed=n) for n in range(5)]
    archived.add(*images)
    for pages in (True, False):
        archived.pages = pages
        polling = poller()
        assert polling.look() == (5 if pages else 0)
        assert polling.look() == 0
    assert sorted(fetched(web)) == [i.SOPInstanceUID for i in images]
    found = [queue.claim() for _ in range(5)]
    assert {f.sop_instance_uid for f in found} == {i.SOPInstanceUID for i in images}
    assert {f.peer for f in found} == {"archive"}
    assert {f.sop_class_uid for f in found} == {DX}


def test_a_look_goes_on_where_the_last_complete_one_began(archived, web, poller, queue, clock):
    archived.add(radiograph("1.2.1"))
    poller().look()
    clock.move(10 * 86400)
    poller().look()
    clock.move(86400)
    web.set(f"{ROOT}/studies", b"", 500)
    with pytest.raises(AwayError):
        poller().look()
    archived.add(radiograph("1.2.2", seed=2))
    clock.move(5 * 86400)
    assert poller().look() == 1
    asked = [q.split("&")[0] for _, p, q, _ in web.asked if p == f"{ROOT}/studies"]
    days = list(dict.fromkeys(asked))
    assert days == [
        "StudyDate=20260228-",  # a day before the first look
        "StudyDate=20260227-",  # the overlap before the first
        "StudyDate=20260309-",  # the overlap before the second: the third was none
    ]


def test_unchanged_studies_are_not_gone_into_again(archived, web, poller):
    image = radiograph("1.2.1")
    archived.add(image)
    polling = poller()
    polling.look()
    web.asked.clear()
    polling.look()
    assert {path for _, path, _, _ in web.asked} == {f"{ROOT}/studies"}
    archived.add(radiograph("1.2.2"))
    assert polling.look() == 1


def test_what_is_not_given_is_tried_again_and_given_up_alone(archived, web, poller, queue, clock):
    archived.add(radiograph("1.2.1"), radiograph("1.2.2"))
    good = next(p for p in web.answers if p.endswith("1.2.1"))
    kept = web.answers.pop(good)
    polling = poller()
    assert polling.look() == 1
    assert polling._cursor.since is None
    clock.move(10)
    web.answers[good] = kept
    assert polling.look() == 1
    assert polling._cursor.since == clock.now
    archived.add(radiograph("1.2.3"))
    web.answers.pop(next(p for p in web.answers if p.endswith("1.2.3")))
    for _ in range(8):
        polling.look()
        clock.move(10)
    assert fetched(web).count("1.2.3") == 5
    assert counts(queue) == {"not fetched: the archive answers 404": 1}
    assert polling._cursor.since is not None


@pytest.mark.parametrize("what", ["other", "class", "two", "junk", "large", "plain", "html"])
def test_another_object_than_asked_for_is_not_taken(archived, web, poller, queue, what, tmp_path):
    archived.add(radiograph("1.2.1"))
    path = next(p for p in web.answers if p.endswith("1.2.1"))
    good = bytes_of(radiograph("1.2.1"))
    report = radiograph("1.2.1", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.34")
    bodies = {
        "other": multipart(bytes_of(radiograph("1.2.7"))),
        "class": multipart(bytes_of(report)),
        "two": multipart(good, good),
        "junk": multipart(b"junk" * 50),
        "large": multipart(good + b"\0" * (65 << 20)),
        "plain": (good, "application/dicom"),
        "html": (b"<html>", "text/html"),
    }
    body, kind = bodies[what]
    web.set(path, body, kind=kind)
    assert poller().look() == 0
    assert queue.content_of("1.2.1") is None
    assert [p for p in (tmp_path / "node").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("uid", ["../../instances", "1.2/../3", "1..2", "", "1" * 65, 7, None])
def test_no_text_but_a_uid_becomes_part_of_an_address(web, poller, uid):
    web.set(f"{ROOT}/studies", json.dumps([{"0020000D": attribute(uid)}, 5, {}]).encode())
    assert poller().look() == 0
    assert {path for _, path, _, _ in web.asked} == {f"{ROOT}/studies"}


def test_an_image_that_came_by_dimse_is_not_fetched(archived, web, poller, queue, tmp_path):
    image = radiograph("1.2.1")
    archived.add(image)
    path = tmp_path / "node/arriving/a"
    polling = poller()
    path.write_bytes(bytes_of(image))
    Storage(tmp_path / "node").add(queue, path, "1.2.1", DX, "archive")
    assert polling.look() == 0
    assert fetched(web) == []
