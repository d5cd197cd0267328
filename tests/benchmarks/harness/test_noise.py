"""Noise: the project of noise is one that the stage takes."""

from benchmarks.harness.noise import NAME, Noise, write_project
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import load_task
from cxr_mm.training.train_image import load_image_data


def test_a_tenth_of_the_noise_is_for_validation(tmp_path):
    write_project(tmp_path, Noise(40, 32, "small_cnn", 8), {})
    task = load_task(str(tmp_path / "tasks" / f"{NAME}.yaml"))
    data = load_image_data(task, TaskPaths(NAME, tmp_path))
    assert (len(data.train), len(data.val)) == (36, 4)
    assert data.dataset(data.val)[0][0].shape == (32, 32)
