"""Scratch folder: what a server writes of patients goes with it, however it ends."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "cxr-mm-app-"
UNLOCKED = "cxr-mm-new-"
"""Prefix of a folder that is about to be locked, so that it is not taken for one left behind."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, below which the process makes its temporary files as long as the context lasts.

    What servers left that were killed is removed first. A folder is locked while its server lives.
    """
    _remove_left()
    new = Path(tempfile.mkdtemp(prefix=UNLOCKED))
    folder = new.with_name(new.name.replace(UNLOCKED, PREFIX, 1)).resolve()
    lock = os.open(new, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(folder)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_left() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another's, locked, or gone meanwhile
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.getuid():
                    shutil.rmtree(folder)
            finally:
                os.close(lock)
