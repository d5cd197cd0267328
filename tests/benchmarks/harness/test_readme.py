"""What commands write into the README is what they would write now."""

import runpy
from pathlib import Path

from benchmarks.harness import readme
from benchmarks.harness.report import read

DOCS = Path(__file__).parents[3] / "docs"


def test_the_table_is_that_of_the_stored_figures():
    (written,) = readme.BLOCK.findall(readme.README.read_text(encoding="utf-8"))
    assert written.strip() == readme.table(read()).strip(), readme.COMMAND


def test_a_figure_has_its_interval_and_an_absent_one_an_empty_cell(make_row, monkeypatch, tmp_path):
    rows = [
        make_row(
            table="cross-dataset",
            task="covid",
            row="NIH",
            metric="specificity",
            value=0.9,
            ci95=(0.8, 0.95),
            n=12,
        )
    ]
    monkeypatch.setattr(readme, "SHOWN", {("covid", "NIH"): "adults"})
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    readme.README.write_text(f"a\n<!-- written by {readme.COMMAND} -->\nold\n<!-- end -->\nb\n")
    for _ in range(2):
        readme.write_readme(rows)
        lines = readme.README.read_text().splitlines()
        assert lines[5:] == [
            "| `covid` | adults |  |  | 0.900 (0.800 to 0.950) | 12 |",
            "",
            "<!-- end -->",
            "b",
        ]


def test_the_pictures_are_drawn_anew_and_have_the_stages():
    drawings = runpy.run_path(str(DOCS / "drawing.py"))["drawings"]()
    for name, text in drawings.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, "python docs/drawing.py"
    assert "train_image" in drawings["system.svg"]
