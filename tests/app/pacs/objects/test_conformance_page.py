"""docs/conformance.md is what the code says."""

import runpy
from pathlib import Path

import pytest

from app.pacs.objects.sop_classes import SOP_CLASSES, SOURCES
from tests.app.pacs.objects.samples import (
    MADE_AT,
    build_objects,
    computed_radiograph,
    one_finding,
    two_findings,
)

GENERATOR = Path(__file__).parents[4] / "docs/reference/conformance.py"

SHOWN_BY = {
    "Qualitative finding": "code 121052",
    "Measurement": "type NUM",
    "Region": "type SCOORD",
    "Location": "graphic POINT",
    "Tracking identifier": "code 112040",
    "Association": "by reference",
    "Image-based result: segmentation": "class Segmentation Storage",
    "Image-based result: parametric map": "class Parametric Map Storage",
    "Image-based result: secondary capture": "class Secondary Capture Image Storage",
    "Presentation state": "class Grayscale Softcopy Presentation State Storage",
}
"""What in an object shows that a primitive is made."""


@pytest.fixture(scope="module")
def facts():
    """What the objects of two answers have: SOP classes, and what is in the reports."""
    found = set()
    for result in (one_finding(), two_findings()):
        made = build_objects(computed_radiograph(), result, tuple(SOP_CLASSES), MADE_AT)
        found |= {f"class {each.SOPClassUID.name}" for each in made.values()}
        items = list(made["sr"].ContentSequence)
        while items:
            item = items.pop()
            items += item.get("ContentSequence", [])
            found |= {f"type {item.ValueType}", f"graphic {item.get('GraphicType')}"}
            if "ConceptNameCodeSequence" in item:
                found.add(f"code {item.ConceptNameCodeSequence[0].CodeValue}")
            if "ReferencedContentItemIdentifier" in item:
                found.add("by reference")
    return found


@pytest.mark.parametrize("row", runpy.run_path(str(GENERATOR))["PRIMITIVES"], ids=lambda r: r[0])
def test_a_primitive_that_is_said_to_be_made_is_in_the_objects_and_no_other(row, facts):
    primitive, made, why = row
    assert (SHOWN_BY[primitive] in facts) == (made != "no")
    assert why


def test_the_committed_page_is_the_generated_one():
    module = runpy.run_path(str(GENERATOR))
    committed = module["PAGE"].read_text(encoding="utf-8")
    assert committed == module["page"](), f"run python {GENERATOR}"


def test_every_class_in_and_out_is_on_it():
    page = runpy.run_path(str(GENERATOR))["page"]()
    assert all(f"`{uid}`" in page for uid in (*SOURCES, *SOP_CLASSES.values()))
