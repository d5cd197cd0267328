"""The node's folder: images that came in and answers that wait, each written for good or not."""

import fcntl
import hashlib
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from app.pacs.queue import Arrival, Queue
from cxr_mm.core.errors import LogError, StorageError

ARRIVING, RECEIVED, OUTBOX = "arriving", "received", "outbox"
FOLDERS = (ARRIVING, RECEIVED, OUTBOX)
OWNER_ALONE = 0o700
Taken = Literal["new", "repeat", "repeat with other content"]
"""What became of an object that arrived."""
BLOCK, BLOCKS = 16 << 10, 64
"""Bytes of a block, and how many are looked at to tell files apart."""
LEAVE_SECONDS, LOOK_SECONDS = 10.0, 0.05
"""For which a start waits for processes of an ended node, and between two looks."""


class Storage:
    """Three folders below one: what arrives, what was received, and what is to be sent.

    Args:
        root: made where it is missing, for its owner alone.

    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for name in FOLDERS:
                (root / name).mkdir(parents=True, exist_ok=True)
            root.chmod(OWNER_ALONE)
        except OSError as error:
            raise StorageError(
                f"cannot be made ({error.strerror})",
                field=str(root),
                remedy="Name a folder that the node's user may write",
            ) from error

    @property
    def arriving(self) -> Path:
        """Folder of files that are not complete."""
        return self.root / ARRIVING

    def path(self, file: str) -> Path:
        """Path of a file that a row names."""
        return self.root / file

    @property
    def free(self) -> int:
        """Bytes that may still be written."""
        return shutil.disk_usage(self.root).free

    def take(self, arrived: Path) -> str:
        """Move a complete file among the received; when this returns, it survives a power cut.

        Args:
            arrived: below `arriving`.

        Returns:
            Its name for a row: a random one, so that no UID becomes a path.

        Raises:
            OSError: it cannot be synced or moved.
        """
        file = f"{RECEIVED}/{secrets.token_hex(16)}.dcm"
        sync(arrived)
        arrived.replace(self.root / file)
        sync(self.root / RECEIVED)
        return file

    def add(
        self,
        queue: Queue,
        arrived: Path,
        sop_instance_uid: str,
        sop_class_uid: str,
        peer: str,
        priority: int = 0,
    ) -> Taken:
        """List a complete file in the queue, or find its SOP instance there already.

        When this returns, file and row survive a power cut. No start of a node removes the file
        between the two.

        Args:
            arrived: below `arriving`.

        Raises:
            LogError: the queue cannot be written.
            OSError: the storage cannot.
        """
        content = content_digest(arrived)
        known = queue.content_of(sop_instance_uid)
        if known is None:
            with _flock(self._listing, fcntl.LOCK_SH, math.inf):
                file = self.take(arrived)
                arrival = Arrival(sop_instance_uid, sop_class_uid, peer, file, content, priority)
                try:
                    if queue.add(arrival):
                        return "new"
                except LogError:
                    self.remove(file)
                    raise
                self.remove(file)  # another was faster
            known = queue.content_of(sop_instance_uid)
        return "repeat" if known == content else "repeat with other content"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep files from being listed meanwhile, also by other processes."""
        with _flock(self._listing, fcntl.LOCK_EX, math.inf):
            yield

    @property
    def _listing(self) -> Path:
        """The folder whose lock is held while a file is listed."""
        return self.root / RECEIVED

    def put(self, name: str, data: bytes) -> str:
        """Write an answer, or write it again; when this returns, it survives a power cut.

        Args:
            name: of the file; the same answer has the same.

        Raises:
            OSError: it cannot be written.
        """
        file = f"{OUTBOX}/{name}"
        temporary = self.arriving / f"{secrets.token_hex(16)}.dcm"
        try:
            temporary.write_bytes(data)
            sync(temporary)
            temporary.replace(self.root / file)
        finally:
            temporary.unlink(missing_ok=True)
        sync(self.root / OUTBOX)
        return file

    def remove(self, file: str) -> None:
        """Remove a file that no row names."""
        (self.root / file).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other nodes away from the folder, once the processes of an ended one have gone.

        Raises:
            StorageError: another node has it.
        """
        with _flock(self.root, fcntl.LOCK_EX):
            with _flock(self.arriving, fcntl.LOCK_EX, LEAVE_SECONDS):
                pass
            yield

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Keep the next node from starting while a process of this one may still write.

        Raises:
            StorageError: the next one starts.
        """
        with _flock(self.arriving, fcntl.LOCK_SH):
            yield


def content_digest(path: Path) -> str:
    """Tell the file of another image from a repeat: SHA-256 of size, header and blocks of pixels.

    Of a file of more than `BLOCKS` blocks only so many are looked at, evenly between start and
    end: a radiograph that was processed anew differs in all, while reading every byte would cost
    as much as receiving it. One that differs in a few pixels alone counts as a repeat.
    """
    size, digest = path.stat().st_size, hashlib.sha256()
    digest.update(f"{size}:".encode())
    with path.open("rb", buffering=0) as stream:
        for block in range(BLOCKS):
            start = max(block * BLOCK, (size - BLOCK) * block // (BLOCKS - 1))
            stream.seek(start)
            digest.update(stream.read(BLOCK))
    return digest.hexdigest()


@contextmanager
def _flock(folder: Path, kind: int, seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock on a folder.

    Raises:
        StorageError: after so many seconds others still have it.
    """
    until = time.monotonic() + seconds
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while not _is_locked(handle, kind):
            if time.monotonic() >= until:
                raise StorageError(
                    "another node works here",
                    field=str(folder),
                    remedy="End it first, or give this one a storage and a queue of its own",
                )
            time.sleep(LOOK_SECONDS)
        yield
    finally:
        os.close(handle)


def _is_locked(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync(path: Path) -> None:
    """Have the disk hold what a file or folder has now.

    Raises:
        OSError: it cannot.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
