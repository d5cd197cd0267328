"""What a retrained model is watched against: the studies that came since."""

import shutil

import pandas as pd
import pytest

from cxr_mm.core.config import EvaluateParams, ReferenceParams
from cxr_mm.core.paths import TaskPaths
from cxr_mm.models.bundle import load_bundle
from monitoring.reference import load_reference
from monitoring.retraining.experiment import NEWEST_REFERENCE_FOLDER
from monitoring.retraining.studies import newest_reference, newest_sample

PARAMS = ReferenceParams(components=2, window_sizes=(10,), resamples=20, newest_studies=60)


@pytest.fixture(scope="module")
def paths(folds_project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("newest") / "experiment"
    shutil.copytree(folds_project, folder)
    return TaskPaths("synthetic", folder)


@pytest.fixture(scope="module")
def freeze_newest(paths, came_since):
    """Freeze the reference with some parameters changed."""
    bundle = load_bundle(paths.bundle)
    newest = newest_sample(bundle, bundle, came_since, paths, EvaluateParams())

    def frozen(**changes):
        shutil.rmtree(paths.root / NEWEST_REFERENCE_FOLDER, ignore_errors=True)
        return newest_reference(newest, bundle, paths, PARAMS.model_copy(update=changes))

    return frozen


def test_it_holds_the_newest_studies_and_their_labels_under_numbers(
    freeze_newest, paths, came_since
):
    result = freeze_newest()
    frozen = load_reference(paths.root / NEWEST_REFERENCE_FOLDER)
    given = pd.read_csv(came_since / "manifest.csv")
    assert result == "the 100 newest studies"
    assert frozen.digest == load_reference(paths.reference).digest
    assert len(frozen.table) == len(given) == 100
    assert frozen.table["patient"].nunique() == given["patient_id"].nunique()
    for finding in frozen.task.finding_names:
        assert frozen.table[f"label.{finding}"].sum() == given[finding].sum()
    assert frozen.images == given["image_path"].notna().sum()
    stored = (paths.root / NEWEST_REFERENCE_FOLDER / "reference.parquet").read_bytes()
    assert not any(name.encode() in stored for name in given["study_id"])


def test_of_too_few_it_is_not_made_and_says_so(freeze_newest, paths):
    result = freeze_newest(newest_studies=101)
    assert result.startswith("held-out studies, since 100 newest ones are fewer than the 101")
    assert not (paths.root / NEWEST_REFERENCE_FOLDER).exists()


def test_where_they_do_not_do_for_the_windows_it_is_not_made_and_says_so(freeze_newest, paths):
    result = freeze_newest(window_sizes=(51,))
    assert result.startswith("held-out studies, since the newest ones are too few (")
    assert "windows of 51 need at least 102" in result
    assert not (paths.root / NEWEST_REFERENCE_FOLDER).exists()
