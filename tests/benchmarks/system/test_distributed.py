"""Distributed: what is counted of two folders, and how fast one was filled."""

import os

import pandas as pd
import pytest

from benchmarks.system.distributed import differing_parts, rate


@pytest.fixture
def folders(tmp_path):
    """Two folders of the same three parts of ten studies, written a second apart."""
    made = []
    for name in ("one", "other"):
        folder = tmp_path / name / "predictions"
        folder.mkdir(parents=True)
        for part in range(3):
            path = folder / f"part-00000{part}.parquet"
            pd.DataFrame({"study_id": [f"{part}-{n}" for n in range(10)]}).to_parquet(path)
            os.utime(path, (part, part))
        made.append(folder.parent)
    return made


def test_a_part_that_differs_or_is_missing_is_counted(folders):
    one, other = folders
    assert differing_parts(one, other) == 0
    (other / "predictions" / "part-000000.parquet").unlink()
    pd.DataFrame({"study_id": ["x"]}).to_parquet(other / "predictions" / "part-000001.parquet")
    assert differing_parts(one, other) == 2


def test_the_rate_is_of_the_studies_after_the_first_part(folders):
    assert rate(folders[0]) == pytest.approx(10.0)
