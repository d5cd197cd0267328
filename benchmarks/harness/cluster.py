"""A throw-away PostgreSQL, which tests and benchmarks stop and start."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

ADMIN = "postgres"
PROGRAMS = ("initdb", "pg_ctl")
"""Of PostgreSQL, on the PATH."""


class Cluster:
    """A PostgreSQL in a folder of its own, by socket only; made here, not yet started."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="log-pg-", dir="/tmp"))
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
        self._run("initdb", "-U", ADMIN, "-A", "trust", "-E", "UTF8", "--no-sync", "-N")

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = f"-c listen_addresses='' -c fsync=off -k {self.folder}"
        self._run("pg_ctl", "start", "-w", "-o", options, "-l", str(self.folder / "log.txt"))

    def stop(self) -> None:
        """Stop it as a power cut would."""
        self._run("pg_ctl", "stop", "-m", "immediate")

    def _is_running(self) -> bool:
        return (self.folder / "data" / "postmaster.pid").exists()

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database, gone afterwards; the cluster runs then, in any case."""
        self._administer("CREATE DATABASE log")
        yield f"postgresql+psycopg://{ADMIN}@/log?host={self.folder}"
        if not self._is_running():
            self.start()
        self._administer("DROP DATABASE log WITH (FORCE)")

    def remove(self) -> None:
        """Stop it and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder)

    def _administer(self, statement: str) -> None:
        url = f"postgresql+psycopg://{ADMIN}@/{ADMIN}?host={self.folder}"
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def _run(self, program: str, *arguments: str) -> None:
        """PostgreSQL refuses to run as root."""
        other: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        subprocess.run(
            [program, "-D", str(self.folder / "data"), *arguments],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            timeout=120,
            **(other if os.geteuid() == 0 else {}),
        )
