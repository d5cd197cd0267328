import numpy as np
import pytest
from safetensors.numpy import save_file

from cxr_mm.core.errors import StageError
from cxr_mm.core.files import write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.data.embeddings import EMBEDDINGS_FILE, PARTS_FILE, load_embeddings, load_parts


def test_what_was_written_is_read(tmp_path):
    paths = TaskPaths("toy", tmp_path)
    paths.embeddings.mkdir(parents=True)
    rows = {"image": np.arange(6, dtype=np.float32).reshape(3, 2)}
    save_file(rows, paths.embeddings / EMBEDDINGS_FILE)
    write_json(paths.embeddings / PARTS_FILE, {"image": [{"length": 2}]})
    (found,) = load_embeddings(paths).items()
    assert found[0] == "image"
    assert np.array_equal(found[1], rows["image"])
    assert load_parts(paths) == {"image": [{"length": 2}]}


@pytest.mark.parametrize("load", [load_embeddings, load_parts])
def test_before_embed_has_run_it_says_so(load, tmp_path):
    with pytest.raises(StageError, match="Run dvc repro embed@toy"):
        load(TaskPaths("toy", tmp_path))
