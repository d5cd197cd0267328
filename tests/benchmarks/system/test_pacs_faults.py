"""Part `pacs-faults`: a few images, and a few of all that is hostile, through small nodes."""

import random
from itertools import pairwise

import pydicom
import pytest

from benchmarks.system import pacs_faults, pacs_objects, pacs_peers, pacs_strangers
from benchmarks.system.pacs_faults import Site
from cxr_mm.core.errors import StageError
from tests.app.pacs.conftest import orthanc_program, radiograph

FEW = {
    pacs_faults: {
        "OUTAGE_IMAGES": 4,
        "OUTAGE": 1.0,
        "TRIES": 1,
        "CLOCK_IMAGES": 1,
        "MESSAGES": 40,
        "HOSTILE_OBJECTS": 40,
        "MEMORY": 2.0,
        "SETTLE": 0.5,
        "IDLE": 2.0,
    },
    pacs_peers: {"PHANTOMS": 2, "SIDE": 256, "WORKERS": 1},
    pacs_strangers: {"SLOW": 2, "SILENT": 2, "FLOOD": 10, "CALLS": 1},
}


@pytest.fixture
def site(monkeypatch, pipeline, tmp_path):
    """A place to measure with few of everything."""
    for module, values in FEW.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    images = list(pacs_peers.radiographs())
    return Site(tmp_path, pipeline.paths.bundle.resolve(), images, orthanc_program())


def of(rows):
    return [(row.metric, row.value) for row in rows]


LOST = [("objects lost", 0), ("objects doubled", 0)]


def test_nothing_is_lost_while_the_clock_is_set_back(site):
    *counted, attempts = pacs_faults._set_back(site)
    assert of(counted) == LOST
    assert 1 <= attempts.value <= attempts.must


def test_nothing_is_lost_while_the_database_is_away(site, cluster):
    with cluster.database() as url:
        found = list(pacs_faults._database_away(site, cluster, url))
    assert of(found) == [("images answered by another status than 0xa700", 0), *LOST]


def test_hostile_peers_end_nothing_and_get_nowhere(site):
    rows = list(pacs_faults._hostile(site))
    assert not [row for row in rows if row.met != "met" and row.must == 0]
    assert rows[-1].metric == "images not accepted"
    assert len({(row.row, row.metric) for row in rows}) == len(rows) == 24


def test_without_postgresql_it_does_not_begin(monkeypatch):
    monkeypatch.setattr(pacs_faults, "PROGRAMS", ("no such program",))
    with pytest.raises(StageError, match="not installed"):
        pacs_faults._check_installed()


def test_elements_are_written_as_they_are_in_the_image(tmp_path):
    image, path = radiograph("1.2.3"), tmp_path / "image.dcm"
    elements = pacs_objects.elements_of(image)
    syntax = image.file_meta.TransferSyntaxUID
    hostile = pacs_objects.Hostile("1.2.3", syntax, pacs_objects.written(elements))
    path.write_bytes(pacs_objects._file(hostile))
    assert pydicom.dcmread(path) == image


def test_hostile_objects_differ_and_every_change_is_among_them():
    found = list(pacs_objects.objects(radiograph("1.2.3"), 300, random.Random(0)))
    assert len({each.data for each in found}) > 290
    assert {each.syntax for each in found} == {*pacs_objects.SYNTAXES} - {
        pacs_objects.DeflatedExplicitVRLittleEndian
    }
    assert all(a.uid != b.uid for a, b in pairwise(found) if "/" not in a.uid + b.uid)
