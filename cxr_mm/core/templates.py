"""Templates: every page and Markdown report that the project writes, by Jinja2."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from cxr_mm.core.types import plural

ENVIRONMENT = Environment(
    loader=PackageLoader("cxr_mm"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.globals["plural"] = plural


def render(template: str, **values: Any) -> str:
    """Fill in a template of `cxr_mm/templates`; values in a page of HTML are escaped."""
    return ENVIRONMENT.get_template(template).render(values)


def macro(name: str, *values: Any, template: str = "macros.html") -> Markup:
    """Call a macro of a template, which makes a piece of a page; values are escaped."""
    return Markup(getattr(ENVIRONMENT.get_template(template).module, name)(*values))
