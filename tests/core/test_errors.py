"""Every error is one line: field, what is wrong, what to do; and no more than that."""

import inspect

import pytest

from cxr_mm.core import errors
from cxr_mm.core.errors import CxrError, InputError


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "it is wrong."),
        ({"field": "age"}, "age: it is wrong."),
        ({"remedy": "Mend it"}, "it is wrong. Mend it."),
        ({"field": "age", "remedy": "Mend it"}, "age: it is wrong. Mend it."),
    ],
)
def test_message_is_field_message_remedy(given, said):
    assert str(CxrError("it is wrong", **given)) == said


def test_message_is_one_line_even_when_a_part_is_not():
    error = CxrError("yaml says:\n  line 3\n\tcolumn 4", field="a\nb", remedy="Mend\r\nit")
    assert str(error) == "a b: yaml says: line 3 column 4. Mend it."
    assert error.message == "yaml says:\n  line 3\n\tcolumn 4"


def test_there_is_one_tree():
    kinds = [k for _, k in inspect.getmembers(errors, inspect.isclass)]
    assert len(kinds) > 10
    assert all(issubclass(kind, CxrError) for kind in kinds)
    given = {"RadiographError", "ClinicalError", "NoteError", "ManifestError", "InputError"}
    assert {kind.__name__ for kind in kinds if issubclass(kind, InputError)} == given
