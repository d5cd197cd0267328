"""Routing: which model answers an image, and why none does."""

from pathlib import Path

import pytest

from app.pacs.routing import NO_RULE, Facts, Refusal, Route, facts_of, route
from app.pacs.settings import Destination, Rule
from tests.app.pacs.conftest import radiograph

HERE = Destination(peer="archive")
FACTS = Facts("archive", "DX", "CHEST", "PA", ("Chest routine", "Thorax pa"))


def rule(**fields):
    if not fields.get("refuse"):
        fields.setdefault("bundle", Path("model"))
    return Rule.model_validate({"destinations": [HERE], **fields})


FITS = [
    {},
    {"from": ["archive"]},
    {"modality": ["CR", "dx"]},
    {"body_part": ["chest"]},
    {"view": ["AP", "PA"]},
    {"description": "*THORAX*"},
]
DOES_NOT = [
    {"from": ["ward"]},
    {"modality": ["CR"]},
    {"body_part": ["THORAX"]},
    {"view": ["AP"]},
    {"description": "abdomen*"},
]


@pytest.mark.parametrize("fields", FITS)
def test_a_rule_that_fits_names_the_model(fields):
    assert route((rule(**fields),), FACTS) == Route(Path("model"), (HERE,), True)


@pytest.mark.parametrize("fields", DOES_NOT)
def test_what_no_rule_takes_is_refused_without_a_report(fields):
    assert route((rule(**fields),), FACTS) == Refusal(NO_RULE)


def test_the_first_rule_that_fits_decides():
    rules = (rule(modality=["CR"]), rule(refuse="portable"), rule(bundle=Path("other")))
    assert route(rules, FACTS) == Refusal("portable", (HERE,))
    assert route(rules[::-1], FACTS).bundle == Path("other")


def test_no_report_where_none_is_wanted():
    assert route((rule(refuse="portable", not_analysed="none"),), FACTS).destinations == ()
    assert not route((rule(not_analysed="none"),), FACTS).says_not_analysed


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"view": "LL"}, "lateral view (LL)"), ({"body_part": "HAND"}, "body part is not the chest")],
)
def test_laterals_and_other_parts_need_a_rule_that_names_them(changed, reason):
    facts = Facts(**{**vars(FACTS), **changed})
    assert route((rule(),), facts) == Refusal(reason, (HERE,))
    named = {name: [value] for name, value in changed.items()}
    assert isinstance(route((rule(**named),), facts), Route)


def test_an_image_that_does_not_say_its_view_or_part_is_taken():
    assert isinstance(route((rule(),), Facts("archive")), Route)


def test_facts_are_read_of_the_header():
    header = radiograph(SeriesDescription="pa", ViewPosition="pa ")
    assert facts_of("archive", header) == Facts("archive", "DX", "CHEST", "PA", ("pa", "Chest"))
    del header.ViewPosition, header.SeriesDescription, header.StudyDescription
    assert facts_of("archive", header) == Facts("archive", "DX", "CHEST")
