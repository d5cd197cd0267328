"""The page: one file per panel."""

import functools
import inspect
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


def _delete_unfinished_uploads() -> None:
    """Have Gradio delete the files of an upload that does not end, whatever the reason.

    It does so where it refuses one itself, but not where the sender hangs up or is too slow, or
    where the whole body is too large: each of those would leave its files until the server stops.
    """
    parse = GradioMultiPartParser.parse

    @functools.wraps(parse)
    async def parse_or_delete(parser: Any) -> Any:
        try:
            return await parse(parser)
        except BaseException:
            for file in parser._files_to_close_on_error:
                file.close()
                Path(file.name).unlink(missing_ok=True)
            raise

    GradioMultiPartParser.parse = parse_or_delete


_delete_unfinished_uploads()
