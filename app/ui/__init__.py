"""The page: one file per panel."""

import functools
import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
    from gradio.route_utils import GradioMultiPartParser


def _delete_uploads_that_are_not_taken() -> None:
    """Have Gradio delete the files of an upload that it does not take, whatever the reason.

    It does so where it refuses one itself, but not where the sender hangs up or is too slow, where
    the whole body is too large or cut off, or where a field or a file has a wrong name: each of
    those would leave its files until the server stops.
    """
    parse = GradioMultiPartParser.parse

    @functools.wraps(parse)
    async def parse_or_delete(parser: Any) -> Any:
        files = parser._files_to_close_on_error
        try:
            form = await parse(parser)
        except BaseException:
            for file in files:
                file.close()
                Path(file.name).unlink(missing_ok=True)
            raise
        for file in files:  # those that are taken have another path before the request ends
            weakref.finalize(file, Path(file.name).unlink, missing_ok=True)
        return form

    GradioMultiPartParser.parse = parse_or_delete


_delete_uploads_that_are_not_taken()
