"""Memory: the long manifest, and what a child process that scores it reports."""

import pandas as pd
import pytest

from benchmarks.harness.runs import make_small_task
from benchmarks.system.memory import long_manifest, scoring


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return make_small_task(
        folder, size=32, backbone="small_cnn", studies=60, image=96, without=("tabular", "note")
    )


def test_a_long_manifest_names_few_images_under_many_ids(small):
    table = long_manifest(small.source / "manifest.csv", 500)
    assert len(table) == table["study_id"].nunique() == 500
    assert 0 < table["image_path"].nunique() <= 60
    assert all((small.source / path).is_file() for path in set(table["image_path"]))


def test_peak_memory_is_that_of_a_process_that_scores_them(small):
    peak = scoring(small, 70).peak
    assert len(pd.read_parquet(small.paths.root / "70.parquet")) == 70
    assert 100 < peak < 16 * 2**10
