"""Tables in docs/scale.md: slopes of the parts `hospitals` and `slopes`, the latter multiplied to a
billion studies."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.harness.parts import Row
from cxr_mm.core.files import write_text

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
COMMAND = "python -m benchmarks --readme"
BLOCK = re.compile(rf"(?<=<!-- written by {COMMAND} -->\n).*?(?=<!-- end -->)", re.DOTALL)
READ = 29 * 5 * 10 / 365
"""Million records by which the windows of 30 days and of one, with the four before each, differ."""
STUDIES, HOURS = 1e9, 100
"""Studies, and hours in which they are to be done."""
STORAGE, GET, EGRESS, PROCESSOR = 0.023, 0.0004, (0.05, 0.09), 0.0816 / 2
"""Dollars: a GB a month, a thousand requests, a GB out to the internet (above 150 TB, below 10), a
processor an hour; the page says whose."""
DICOM = 3056 * 2544
"""Bytes of an image of 8 bits without compression."""


def write_estimates(rows: Sequence[Row]) -> None:
    """Write the tables into the page."""
    text, tables = PAGE.read_text(encoding="utf-8"), iter((of_hospitals(rows), table(rows)))
    write_text(PAGE, BLOCK.sub(lambda _: f"\n{next(tables)}\n", text))


def of_hospitals(rows: Sequence[Row]) -> str:
    """A Markdown table: what reports from a log of ten million records cost."""
    lines = ["| what | costs | for each million records |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in _reports(rows))]) + "\n"


def _reports(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    own = {(row.row, row.metric): row.value for row in rows if row.part == "hospitals"}
    every = "10,000,000 records"

    def cost(of: str) -> tuple[float, float]:
        """Seconds of one processor, and GB."""
        return own[of, "seconds of its processor"], own[of, "peak memory, MiB"] * 2**20 / 1e9

    disk = own[every, "GiB on disk"] * 2**30 / 1e9 / 10
    yield (
        "disk",
        "PostgreSQL, with indexes, an embedding of 24 numbers",
        f"{disk:.1f} GB; with one of 1,280 numbers some 5 kB a record more",
    )
    start = f"{every} of 100 columns: "
    day, month = (cost(f"{start}{what}") for what in ("one day", "30 days"))
    early = next(row for row, _ in own if row.endswith("one day") and not row.startswith(start))
    for what, (seconds, memory), more in (
        (
            "a day's report",
            day,
            f"of other days: nothing ({cost(early)[0]:.0f} seconds after a tenth)",
        ),
        ("a day's report of one site", cost(f"{start}one day of one site"), "nothing"),
        (
            "a day's report by site",
            cost(f"{start}one day, by site"),
            "nothing; it has no page of Evidently's",
        ),
        (
            "30 days in one window",
            month,
            f"{(month[0] - day[0]) / READ:.0f} seconds and {(month[1] - day[1]) / READ:.2f} GB in "
            "the window and the four before it",
        ),
    ):
        yield what, f"{seconds:.0f} seconds of one processor and {memory:.1f} GB", more
    seconds, memory = cost("a year from 7,300 aggregates")
    yield (
        "a year's dashboard",
        f"{seconds:.0f} seconds and {memory:.1f} GB for 7,300 aggregates",
        f"nothing: it reads {1000 * seconds / 7300:.1f} ms of processor an aggregate",
    )


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: slope of one study, and what a billion take."""
    lines = ["| what | one study | 10⁹ studies |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in _lines(rows))]) + "\n"


def _lines(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    own = {(row.row, row.metric): row.value for row in rows if row.part == "slopes"}

    def slope(start: str, metric: str = "processor seconds") -> float:
        return next(v for (row, kind), v in own.items() if row.startswith(start) and kind == metric)

    jpeg = slope("JPEG", "bytes")
    for name, size in (("JPEG", jpeg), ("DICOM of 8 bits, not compressed", DICOM)):
        whole = STUDIES * size / 1e9
        yield (
            name,
            f"{size / 1e6:.1f} MB",
            f"{whole / 1e6:.1f} PB; {_dollars(whole * STORAGE)} a month",
        )
    yield "requests", "a GET and a HEAD", _dollars(2 * STUDIES / 1000 * GET)
    out = " to ".join(_dollars(STUDIES * jpeg / 1e9 * price) for price in EGRESS)
    yield (
        "egress of the JPEGs",
        "none to workers in the bucket's region",
        f"0; to the internet {out}",
    )
    steps = {
        "reading and checking the JPEG": slope("JPEG"),
        "embedding the image": slope("image"),
        "embedding a note": slope("note"),
        "all else of answering": slope("study without"),
    }
    for name, seconds in steps.items():
        yield (
            name,
            f"{seconds:.2g} processor s",
            f"{_round(STUDIES * seconds / 3600)} processor hours",
        )
    total = sum(steps.values())
    processors = STUDIES * total / 3600 / HOURS
    price = _dollars(processors * HOURS * PROCESSOR)
    yield (
        "together",
        f"{total:.2g} processor s",
        f"{_round(processors)} processors for {HOURS} hours; {price}",
    )
    rate = STUDIES * jpeg / HOURS / 3600 / 1e9
    yield f"network, in {HOURS} hours", f"{jpeg / 1e6:.1f} MB", f"{rate:.1f} GB a second"
    memory = slope("worker", "peak memory, MiB") / 1024
    yield (
        "memory",
        f"{memory:.1f} GiB a worker",
        f"{_round(memory * processors)} GiB over the cluster",
    )
    for name, row in (
        ("predictions", "study, its prediction"),
        ("studies.parquet", "study, its row"),
    ):
        size = slope(row, "bytes")
        yield name, f"{size:.0f} bytes", f"{STUDIES * size / 1e12:.2f} TB"
    seconds = slope("study, listed")
    hours = STUDIES * seconds / 3600
    yield "list of studies, by the driver alone", f"{seconds * 1e6:.0f} µs", f"{hours:.0f} hours"


def _dollars(amount: float) -> str:
    return f"{_round(amount)} dollars"


def _round(value: float) -> str:
    """Two significant digits: no estimate has more."""
    return f"{float(f'{value:.2g}'):,.0f}"
