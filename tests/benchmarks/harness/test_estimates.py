"""The estimates of docs/scale.md are those of the stored slopes."""

from benchmarks.harness import estimates
from benchmarks.harness.report import read


def test_the_tables_are_those_of_the_stored_slopes():
    written = estimates.BLOCK.findall(estimates.PAGE.read_text(encoding="utf-8"))
    expected = [estimates.of_hospitals(read()).strip(), estimates.table(read()).strip()]
    assert [each.strip() for each in written] == expected, estimates.COMMAND


def test_tables_are_written_where_the_page_has_a_place_for_each(monkeypatch, tmp_path):
    page = estimates.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(estimates, "PAGE", tmp_path / "scale.md")
    estimates.PAGE.write_text(estimates.BLOCK.sub("old\n", page), encoding="utf-8")
    estimates.write_estimates(read())
    assert estimates.PAGE.read_text(encoding="utf-8") == page


def test_an_estimate_is_the_slope_times_a_billion(make_row):
    slopes = {
        ("JPEG, quality 95", "bytes"): 2e6,
        ("JPEG, read and checked", "processor seconds"): 0.072,
        ("image, embedded", "processor seconds"): 0.036,
        ("note, embedded", "processor seconds"): 0.018,
        ("study without image and note, scored", "processor seconds"): 0.018,
        ("worker with one thread", "peak memory, MiB"): 512,
        ("study, its prediction", "bytes"): 250,
        ("study, its row in studies.parquet", "bytes"): 100,
        ("study, listed by the driver", "processor seconds"): 18e-6,
    }
    rows = [
        make_row(part="slopes", table="slopes", row=row, metric=metric, value=value)
        for (row, metric), value in slopes.items()
    ]
    text = estimates.table(rows)
    for line in (
        "| JPEG | 2.0 MB | 2.0 PB; 46,000 dollars a month |",
        "| requests | a GET and a HEAD | 800 dollars |",
        "| reading and checking the JPEG | 0.072 processor s | 20,000 processor hours |",
        "| together | 0.14 processor s | 400 processors for 100 hours; 1,600 dollars |",
        "| memory | 0.5 GiB a worker | 200 GiB over the cluster |",
        "| predictions | 250 bytes | 0.25 TB |",
        "| list of studies, by the driver alone | 18 µs | 5 hours |",
    ):
        assert line in text
