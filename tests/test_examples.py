"""The notebooks: a kernel runs each on fewer studies, and those in the repository have been run."""

import runpy

import nbformat
import pytest

from tests.shell import PROJECT

EXAMPLES = PROJECT / "examples"
RUN = runpy.run_path(str(EXAMPLES / "run.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LARGEST_FILE = 150_000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder `examples` to run in."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "examples").mkdir()
    return tmp_path / "examples"


def outputs(name, folder, fewer):
    """Outputs of each code cell of a notebook that has been run on fewer studies."""
    text = (EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8")
    for more, less in fewer.items():
        assert more in text
        text = text.replace(more, less)
    (folder / "notebook.ipynb").write_text(text, encoding="utf-8")
    notebook = RUN["executed"](folder / "notebook.ipynb", folder)
    return notebook, [c.outputs for c in notebook.cells if c.cell_type == "code"]


def test_the_quickstart_predicts_explains_and_monitors(folds_project, folder):
    (folder.parent / "models").symlink_to(folds_project / "models")
    notebook, found = outputs("quickstart", folder, {"studies=60": "studies=12"})
    drawn = next(o.data for cell in found for o in cell if "<iframe" in str(o.get("data")))
    assert "Grad-CAM" in drawn["text/html"]
    assert "synthetic: 12 studies" in found[-1][0].text
    assert (folder / "demo/monitoring/summary.html").is_file()
    assert "<iframe" not in nbformat.writes(RUN["trimmed"](notebook))


def test_ones_own_table_becomes_a_model_that_is_evaluated_and_saved(folder):
    fewer = {
        "studies=160": "studies=48",
        "studies=80": "studies=24",
        "bootstrap=200": "bootstrap=100",
        '\\"bootstrap\\": 200': '\\"bootstrap\\": 100',
        '{\\"size\\": 64}': '{\\"size\\": 32}, \\"split\\": {\\"protocol\\": \\"patient\\"}',
    }
    _, found = outputs("bring_your_own", folder, fewer)
    assert "effusion: finding" in found[2][0].text
    assert found[5][0].data["text/markdown"].startswith("# Model card")
    assert "AUC" in found[6][-1].text
    assert (folder / "mine/bundle/bundle.json").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_of_the_repository_has_run_from_top_to_bottom(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}
    assert path.stat().st_size < LARGEST_FILE
    assert "/home/" not in (text := path.read_text(encoding="utf-8"))
    assert "/tmp/" not in text
