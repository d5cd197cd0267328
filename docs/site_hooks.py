"""Hooks of the site: pages that lie outside `docs`, and links to what is no page.

GitHub shows the same Markdown, whose links lead to files of the repository. A link to a file that
the site lacks becomes its text; one to a file that does not exist is left, and mkdocs warns of it.
"""

import os
import re
from pathlib import Path, PurePosixPath

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
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are outside of `docs`."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links between files of the repository into links between pages."""
    own = PurePosixPath(page.file.src_uri)
    place = own if str(own) in OUTSIDE else "docs" / own

    def replaced(found: re.Match[str]) -> str:
        text, target, anchor = found.groups()
        path = os.path.normpath(place.parent / target)
        uri = path if path in OUTSIDE else path.removeprefix("docs/")
        if files.get_file_from_path(uri) and (path in OUTSIDE or path != uri):
            return f"[{text}]({os.path.relpath(uri, own.parent)}{anchor or ''})"
        return text if (ROOT / path).exists() else found[0]

    return LINK.sub(replaced, markdown)
