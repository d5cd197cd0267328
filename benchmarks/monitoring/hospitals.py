"""Part `hospitals`: reports from a PostgreSQL log of ten million records of ten sites in a year.

Records are written by the database itself: each has the content of one of some thousand that the
program wrote, and an id, study, patient, site, model and time of its own. Their chain is not that
of a log, which no report reads.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert, text
from sqlalchemy.engine import Connection, Engine

from benchmarks.harness.cluster import Cluster
from benchmarks.harness.parts import Row
from benchmarks.harness.process import Usage, run_process
from benchmarks.monitoring.scale import DIGEST, START, synthetic_records, wide_task
from cxr_mm.core.config import ReferenceParams
from cxr_mm.core.files import read_json, write_json
from cxr_mm.core.verdict import EXIT_CODES, VERDICT_FILE
from cxr_mm.prediction_log import PredictionLog
from cxr_mm.prediction_log.partitions import make_months
from monitoring.reference import freeze, load_reference
from monitoring.scheduler.state import AGGREGATED, WINDOWS, open_state
from monitoring.sites.aggregate import AGGREGATES

RECORDS, DAYS, SITES, CONTENTS, HELDOUT = 10_000_000, 365, 10, 5000, 1000
FEATURES, WIDTH = 68, 24
"""Clinical features and numbers of an image embedding: a hundred columns are compared."""
OTHER = "e" * 64
"""Digest of the second model, which answers every other study of a site."""
LABELLED = 10
"""One study in so many has a label."""
EARLY = 0.1
"""Share of the year after which the report of a day is measured for the first time."""
SECRET = "the secret of a throw-away log"
SECONDS, MEBIBYTES = 60.0, 1024.0

DAY = """
INSERT INTO predictions ({names})
SELECT {values}
FROM generate_series(CAST(:first AS int), CAST(:last AS int)) g
JOIN contents c ON c.position = g % {contents} + 1
"""
OWN = {
    "position": "g",
    "record_id": "md5(g::text)",
    "created_at": "CAST(:start AS timestamp) + g * CAST(:step AS interval)",
    "study_hash": "md5(g::text) || md5('study ' || g)",
    "patient_hash": "md5('patient ' || g / 2) || md5(g::text)",
    "site": f"'hospital ' || g % {SITES}",
    "digest": f"CASE g / {SITES} % 2 WHEN 0 THEN '{DIGEST}' ELSE '{OTHER}' END",
}
"""Column → its value in record number `g`; the others are of the content."""
LABELS = f"""
INSERT INTO outcomes
    (position, content, chain, outcome_id, study_hash, finding, label, recorded_at, source, comment)
SELECT row_number() OVER (), '', '', md5(study_hash), study_hash, 'finding', position / 7 % 2,
    created_at, 'csv', ''
FROM predictions WHERE position / {2 * SITES} % {LABELLED} = 0
"""


@dataclass(frozen=True)
class Size:
    """How large the log is.

    Args:
        records: in all.
        days: that they are spread over.
        contents: different ones.
    """

    records: int = RECORDS
    days: int = DAYS
    contents: int = CONTENTS


def measure(size: Size | None = None) -> list[Row]:
    """Rows of seconds and MiB of reports of a day, of a month and of the year."""
    size = size or Size()
    cluster = Cluster()
    try:
        cluster.start()
        with cluster.database() as url, tempfile.TemporaryDirectory() as name:
            return list(_measured(url, Path(name), size))
    finally:
        cluster.remove()


def _measured(url: str, root: Path, size: Size) -> Iterator[Row]:
    bundle = root / "models" / "bundle"
    write_json(bundle / "bundle.json", {"digest": DIGEST})
    task = wide_task(FEATURES)
    held = list(synthetic_records(HELDOUT, 0, task, WIDTH))
    freeze(task, DIGEST, held, [], ReferenceParams(), bundle.parent / "reference")
    columns = len(load_reference(bundle.parent / "reference").columns)
    with PredictionLog(url, SECRET) as log:
        log.add_records(synthetic_records(size.contents, 1, task, WIDTH))
    engine = create_engine(url)
    _prepare(engine, size)
    early = round(EARLY * size.days)
    _fill(engine, size, range(early))
    reports = _Reports(url, bundle, root, size)
    name = f"{size.records * early // size.days:,} records of {columns} columns"
    yield from _rows(f"{name}: one day", reports.day(early - 1), size, bound=False)
    _fill(engine, size, range(early, size.days))
    name, last = f"{size.records:,} records of {columns} columns", size.days - 1
    yield from _rows(f"{name}: one day", reports.day(last), size)
    yield from _rows(f"{name}: one day of one site", reports.day(last, site="hospital 3"), size)
    yield from _rows(f"{name}: 30 days", reports.days(last - 29, 30), size, bound=False)
    yield from _rows(f"{name}: one day, by site", reports.day(last, by="site"), size)
    stored = _aggregate(url, reports.aggregates, size)
    yield from _rows(f"a year from {stored:,} aggregates", reports.year(), size)
    yield _row(f"{size.records:,} records", "GiB on disk", _bytes(engine) / (1 << 30), None, size)
    engine.dispose()


class _Reports:
    """Commands on the log, each in a process of its own."""

    def __init__(self, url: str, bundle: Path, root: Path, size: Size) -> None:
        self._url, self._bundle, self._out, self._size = url, bundle, root / "out", size

    def day(self, number: int, site: str = "", by: str = "") -> Usage:
        """The report of a day; of one site, or by site."""
        more = [*(("--site", site) if site else ()), *(("--group-by", by) if by else ())]
        return self.days(number, 1, *more)

    def days(self, first: int, count: int, *more: str) -> Usage:
        """The report of several days."""
        since = START + timedelta(days=first)
        until = since + timedelta(days=count)
        return run_process(
            "monitoring",
            *("report", "--bundle", self._bundle, "--log", self._url, "--out", self._out),
            *("--since", since.isoformat(), "--until", until.isoformat(), *more),
            accepted=tuple(EXIT_CODES.values()),
        )

    @property
    def aggregates(self) -> Mapping[str, Any]:
        """Of each site, in the newest report, which was by site."""
        found: Mapping[str, Any] = read_json(self._out / VERDICT_FILE)[AGGREGATES]
        return found

    def year(self) -> Usage:
        """The dashboard of all days."""
        until = (START + timedelta(days=self._size.days)).isoformat()
        words = "dashboard", "--log", self._url, "--task", wide_task(1).name, "--until", until
        return run_process("monitoring", *words, "--out", self._out / "dashboard.html")


def _prepare(engine: Engine, size: Size) -> None:
    """Put the contents aside, and make the months; unlogged, which writes half as much."""
    with engine.begin() as connection:
        connection.execute(text("CREATE UNLOGGED TABLE contents AS SELECT * FROM predictions"))
        connection.execute(text("CREATE UNIQUE INDEX ON contents (position)"))
        connection.execute(text("TRUNCATE predictions"))
        make_months(connection, START, size.days // 28)
        named = (
            "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'predictions'::regclass"
        )
        for month in connection.scalars(text(named)).all():
            connection.execute(text(f"ALTER TABLE {month} SET UNLOGGED"))


def _fill(engine: Engine, size: Size, days: range) -> None:
    """Write the records of these days and the labels that come with them, and vacuum."""
    with engine.connect() as connection:
        names = connection.execute(text("SELECT * FROM contents LIMIT 0")).keys()
    values = ", ".join(OWN.get(name, f"c.{name}") for name in names)
    statement = text(DAY.format(names=", ".join(names), values=values, contents=size.contents))
    step = timedelta(days=size.days) / size.records
    edges = [size.records * day // size.days for day in range(size.days + 1)]
    for day in days:
        bounds = {"first": edges[day], "last": edges[day + 1] - 1, "start": START, "step": step}
        with engine.begin() as connection:
            connection.execute(statement, bounds)
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE outcomes"))
        connection.execute(text(LABELS))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def _aggregate(url: str, of_day: Mapping[str, Any], size: Size) -> int:
    """Store the aggregates of one day as those of every day and model; returns how many."""
    state = open_state(url)
    with state.engine.begin() as connection:
        for number in range(2 * size.days):
            _store(connection, number, of_day)
    state.close()
    return 2 * size.days * len(of_day)


def _store(connection: Connection, number: int, of_day: Mapping[str, Any]) -> None:
    day, model = divmod(number, 2)
    since = START + timedelta(days=day)
    window = {
        "window_id": number,
        "task": wide_task(1).name,
        "digest": (DIGEST, OTHER)[model],
        "since": since,
        "until": since + timedelta(days=1),
        "status": "done",
        "attempts": 1,
        "alerting": False,
    }
    connection.execute(insert(WINDOWS), window)
    rows = [{"window_id": number, "site": s, "content": content} for s, content in of_day.items()]
    connection.execute(insert(AGGREGATED), rows)


def _bytes(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT pg_database_size('log')")) or 0)


def _rows(name: str, spent: Usage, size: Size, *, bound: bool = True) -> list[Row]:
    seconds, most = (SECONDS, MEBIBYTES) if bound else (None, None)
    return [
        _row(name, "seconds", spent.wall, seconds, size),
        _row(name, "seconds of its processor", spent.user + spent.system, None, size),
        _row(name, "peak memory, MiB", spent.peak, most, size),
    ]


def _row(row: str, metric: str, value: float, must: float | None, size: Size) -> Row:
    facts: dict[str, Any] = {"task": "synthetic records", "ceiling": True, "n": size.records}
    return Row(row=row, metric=metric, value=value, must=must, **facts)
