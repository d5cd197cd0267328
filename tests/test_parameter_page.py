"""docs/reference/parameters.md: as generated, and nothing in it without a description."""

import runpy
from pathlib import Path

from cxr_mm.core.config import Params

GENERATOR = Path(__file__).parents[1] / "docs/reference/generate.py"


def test_the_committed_page_is_the_generated_one():
    module = runpy.run_path(str(GENERATOR))
    committed = module["PAGE"].read_text(encoding="utf-8")
    assert committed == module["page"](), f"run python {GENERATOR}"


def test_every_parameter_of_every_stage_is_on_it_with_a_description():
    page = runpy.run_path(str(GENERATOR))["page"]()
    pipeline = page.split("## monitoring.yaml")[0]
    rows = {line.split("|")[1].strip(" `"): line for line in pipeline.splitlines() if "|" in line}
    for stage, section in Params.model_fields.items():
        for name in getattr(section.annotation, "model_fields", {}):
            assert rows[name].split("|")[-2].strip(), f"{stage}.{name}"
