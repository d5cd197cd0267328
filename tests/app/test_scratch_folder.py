"""Scratch: nothing is left of a server, however it ended; what is in use is left alone."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from app.security.scratch_folder import PREFIX, scratch_folder

HOLDS = """
import sys, tempfile
from pathlib import Path
from app.security.scratch_folder import scratch_folder
with scratch_folder() as folder:
    Path(tempfile.mkdtemp(), "image").write_text("an image")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Temporary files go to a folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def server():
    return subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_temporary_files_are_made_there_and_go_with_it(tmp_path):
    with scratch_folder() as folder:
        assert folder.parent == tmp_path.resolve()
        assert tempfile.mkdtemp().startswith(str(folder))
        assert folder.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() == str(tmp_path)


def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path):
    killed = server()
    left = killed.stdout.readline().strip()
    killed.kill()
    killed.communicate()
    assert any(Path(left).iterdir())
    with scratch_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_what_a_living_server_uses_is_left_alone(tmp_path):
    other = server()
    used = other.stdout.readline().strip()
    with scratch_folder() as folder:
        assert {str(path) for path in tmp_path.iterdir()} == {used, str(folder)}
        assert any(Path(used).iterdir())
    other.communicate("")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed_and_a_file_is_left(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "precious")
    (tmp_path / f"{PREFIX}file").write_text("")
    with scratch_folder():
        pass
    assert len(list(tmp_path.iterdir())) == 3
