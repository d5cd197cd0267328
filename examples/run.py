"""Run the notebooks as Jupyter does and keep their outputs: `python examples/run.py`.

What would make a notebook large is left out: an explanation is drawn when the reader runs the cell.
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
LARGEST = 80_000
"""Characters of an output that is kept."""
MINUTES = 10


def executed(path: Path, folder: Path) -> NotebookNode:
    """Run a notebook from its first cell in a kernel of its own.

    Args:
        path: the notebook.
        folder: working directory of the kernel.

    Raises:
        CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=60 * MINUTES,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return notebook


def trimmed(notebook: NotebookNode) -> NotebookNode:
    """A notebook without progress bars, large outputs and what the machine calls its kernel."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            for each in outputs:
                kinds = each.get("data", {})
                for kind in [k for k, value in kinds.items() if len(str(value)) > LARGEST]:
                    del kinds[kind]
            cell.outputs = outputs
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


if __name__ == "__main__":
    for notebook_file in sorted(HERE.glob("*.ipynb")):
        nbformat.write(trimmed(executed(notebook_file, HERE)), notebook_file)
