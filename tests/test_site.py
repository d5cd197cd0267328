"""The site: built without a warning, complete, and nothing in it is loaded from elsewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ELSEWHERE = re.compile(
    r"<(?:script|link|img|source|iframe|video|object)\b[^>]*?"
    r"(?:src|href|data|srcset)=[\"']?((?:https?:)?//[^\"' >]+)|url\([\"']?((?:https?:)?//[^)]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site):
    assert "https://cdn" in ELSEWHERE.search('<script async src="https://cdn.org/x.js">')[1]
    pages = [p for kind in ("html", "css") for p in site.rglob(f"*.{kind}")]
    assert len(pages) > 30
    found = {p.name: ELSEWHERE.findall(p.read_text(encoding="utf-8")) for p in pages}
    assert not {name: urls for name, urls in found.items() if urls}
    assert not [p for p in pages if 'class="mermaid"' in p.read_text(encoding="utf-8")]


def test_every_document_is_a_page_and_links_to_files_of_the_project_are_text(site):
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "reference").glob("*.md")]
    for page in pages:
        name = page.relative_to(ROOT / "docs").with_suffix("")
        assert (site / ("." if name.name == "index" else name) / "index.html").is_file(), name
    architecture = (site / "architecture/index.html").read_text(encoding="utf-8")
    assert "pyproject.toml" in architecture
    assert 'href="../pyproject.toml"' not in architecture
    assert 'href="../benchmarks/RESULTS/"' in architecture


def test_the_notebooks_are_pages_with_what_their_cells_drew(site):
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        page = (site / "examples" / notebook.stem / "index.html").read_text(encoding="utf-8")
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        drawn = [kind for c in cells for o in c.get("outputs", ()) for kind in o.get("data", ())]
        assert page.count('src="data:image/png') == drawn.count("image/png")
        assert page.count("<table") >= drawn.count("text/html") - drawn.count("image/png")
        assert 'class="output"' in page
    python = (site / "python/index.html").read_text(encoding="utf-8")
    assert 'href="../examples/quickstart/"' in python


def test_the_reference_of_python_shows_signatures_and_errors(site):
    page = (site / "reference/api/index.html").read_text(encoding="utf-8")
    for name in ("load_bundle", "build_study", "Predictor.answer_one", "ClinicalError"):
        assert re.search(rf'id="cxr_mm\.[\w.]*{re.escape(name)}"', page), name
    assert "Raises:" in page
