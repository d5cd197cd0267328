"""Files of the node's folder: what tells a repeat from another image."""

import numpy as np
import pytest

from app.pacs.storage import BLOCK, BLOCKS, content_digest


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK * BLOCKS, 5 * BLOCK * BLOCKS + 7])
def test_a_copy_is_told_from_what_is_longer_or_was_processed_anew(tmp_path, size):
    path, data = tmp_path / "image.dcm", np.random.default_rng(0).bytes(size)

    def digest(content):
        path.write_bytes(content)
        return content_digest(path)

    processed = bytes(255 - byte for byte in data[size // 2 :])
    others = [b"\0" + data[1:], data[: size // 2] + processed, data[:-1], data + b"\0"]
    assert digest(data) == digest(data)
    assert digest(data) not in {digest(each) for each in others if each != data}
