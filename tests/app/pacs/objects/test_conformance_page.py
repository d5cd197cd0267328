"""docs/conformance.md is what the code says."""

import runpy
from pathlib import Path

from app.pacs.objects import SOP_CLASSES, SOURCES

GENERATOR = Path(__file__).parents[4] / "docs/reference/conformance.py"


def test_the_committed_page_is_the_generated_one():
    module = runpy.run_path(str(GENERATOR))
    committed = module["PAGE"].read_text(encoding="utf-8")
    assert committed == module["page"](), f"run python {GENERATOR}"


def test_every_class_in_and_out_is_on_it():
    page = runpy.run_path(str(GENERATOR))["page"]()
    assert all(f"`{uid}`" in page for uid in (*SOURCES, *SOP_CLASSES.values()))
