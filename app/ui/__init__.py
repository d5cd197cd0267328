"""The page: one file per panel."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["gr"]


@contextmanager
def _without_stubs() -> Iterator[None]:
    """Import Gradio without the `.pyi` files that it writes beside itself for each component.

    They serve editors and cost a tenth of the page's start. Gradio makes none for a component
    that has no file.
    """
    getfile = inspect.getfile

    def no_file_of_components(code: Any) -> str:
        if type(code).__module__ == "gradio.component_meta":
            raise OSError(code)
        return getfile(code)

    inspect.getfile = no_file_of_components  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = getfile


with _without_stubs():
    import gradio as gr
