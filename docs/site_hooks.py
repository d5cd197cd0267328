"""Hooks of the site: pages that lie outside `docs`, notebooks, and links to what is no page.

GitHub shows the same Markdown, whose links lead to files of the repository. A link to a file that
the site lacks becomes its text; one to a file that does not exist is left, and mkdocs warns of it.
"""

import json
import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any

from markdown import markdown as html_of
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "benchmarks/RESULTS.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
)
"""Pages of the site by their place in the repository, which is their place in the site too."""
NOTEBOOKS = {
    str(path.relative_to(ROOT)): str(path.relative_to(ROOT).with_suffix(".md"))
    for path in sorted((ROOT / "examples").glob("*.ipynb"))
}
"""Notebook → its page, by their places in the repository."""
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are outside of `docs`, and those of the notebooks."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for name, page in NOTEBOOKS.items():
        notebook = json.loads((ROOT / name).read_text(encoding="utf-8"))
        content = "\n\n".join(map(_cell, notebook["cells"]))
        files.append(File.generated(config, page, content=content))
    return files


def _cell(cell: Mapping[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *map(_output, cell["outputs"])])


def _output(output: Mapping[str, Any]) -> str:
    """What a cell printed or drew, in the richest form that a page can show."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    kinds = {kind: "".join(value) for kind, value in data.items()}
    if "image/png" in kinds:
        return f'<img alt="What the cell draws" src="data:image/png;base64,{kinds["image/png"]}">'
    if "text/markdown" in kinds:
        kinds["text/html"] = html_of(kinds["text/markdown"], extensions=["tables"])
    if "text/html" in kinds:
        return f'<div class="output">{kinds["text/html"]}</div>'
    return f'<pre class="output">{escape(kinds["text/plain"])}</pre>'


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links between files of the repository into links between pages."""
    own = PurePosixPath(page.file.src_uri)
    outside = (*OUTSIDE, *NOTEBOOKS.values())
    place = own if str(own) in outside else "docs" / own

    def replaced(found: re.Match[str]) -> str:
        text, target, anchor = found.groups()
        path = os.path.normpath(place.parent / target)
        path = NOTEBOOKS.get(path, path)
        uri = path if path in outside else path.removeprefix("docs/")
        if files.get_file_from_path(uri) and (path in outside or path != uri):
            return f"[{text}]({os.path.relpath(uri, own.parent)}{anchor or ''})"
        return text if (ROOT / path).exists() else found[0]

    return LINK.sub(replaced, markdown)
