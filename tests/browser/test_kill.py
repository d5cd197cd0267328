"""A server that is killed half-way through a worklist leaves no image and no record twice."""

import sqlite3
import zipfile
from collections import Counter
from contextlib import contextmanager

import psutil
import pytest

from tests.browser.conftest import launched
from tests.browser.test_reading import opened
from tests.browser.test_tabs import give_list, tab

STUDIES = 80
"""So many that the list takes seconds."""


@pytest.fixture
def images(tmp_path, site):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in range(STUDIES):
            image = site.images[number % len(site.images)]
            archive.write(image, f"{number:04}.png")
    return tmp_path / "images.zip"


@contextmanager
def server_of(pipeline, folder):
    """Address and process of a server whose temporary files go to a folder of the test's own."""
    (folder / "temporary").mkdir(exist_ok=True)
    words = ("--bundle", str(pipeline.paths.bundle), "--log", f"sqlite:///{folder / 'log.db'}")
    server, url = launched(folder, *words, TMPDIR=str(folder / "temporary"))
    try:
        yield url, psutil.Process(server.pid)
    finally:
        server.kill()
        server.wait()


def begin(window, url, images):
    opened(window, url)
    tab(window, "Worklist")
    give_list(window, images)
    window.get_by_role("button", name="Predict all").click()


def kept(folder):
    """How often each study is in the log."""
    with sqlite3.connect(folder / "log.db") as database:
        rows = database.execute("select study_hash from predictions").fetchall()
    return Counter(study for (study,) in rows)


def uploads(folder):
    """Files on disk but for the examples."""
    found = (folder / "temporary").rglob("*")
    return [path for path in found if path.is_file() and "examples" not in path.parts]


def test_a_worklist_survives_its_server(window, pipeline, images, tmp_path):
    with server_of(pipeline, tmp_path) as (url, process):
        begin(window, url, images)
        window.get_by_text(f"/{STUDIES}").first.wait_for()
        below = process.children(recursive=True)
        process.kill()
        psutil.wait_procs(below, timeout=10)
        assert not any(each.is_running() for each in below)
    assert len(uploads(tmp_path)) > STUDIES // 2
    before = kept(tmp_path)
    assert sum(before.values()) < STUDIES
    with server_of(pipeline, tmp_path) as (url, _):
        assert uploads(tmp_path) == []
        begin(window, url, images)
        window.get_by_text(f"Studies answered: {STUDIES}").wait_for(timeout=180_000)
    after = kept(tmp_path)
    assert len(after) == STUDIES
    assert all(after[study] == before[study] + 1 for study in after)
