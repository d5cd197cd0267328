"""The stage `train_image` by two processes, which stand for two devices, as a user starts it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import psutil
import pytest
import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import nn

from cxr_mm.core.config import load_params
from cxr_mm.core.errors import ParamsError
from cxr_mm.training.shared_norm import SharedBatchNorm
from cxr_mm.training.train_image import train_image

PLAIN = {"dropout": 0.0, "augment": "none", "lr": 1e-4, "head_lr": 1e-3}
"""What is drawn at random differs between devices; at small rates Adam does not enlarge what the
order of sums changes."""


@pytest.fixture
def project(spots, spot_task, spot_params, tmp_path):
    """Writes the task and its parameters, with changes to `train_image`, as files."""

    def write(**changes):
        (tmp_path / "tasks").mkdir(exist_ok=True)
        task = spot_task().model_dump(mode="json", exclude_defaults=True)
        (tmp_path / "tasks" / "spot.yaml").write_text(yaml.safe_dump(task))
        params = spot_params(**{"epochs": 1, **PLAIN, **changes}).train_image
        written = {"tasks": ["spot"], "ingest": {"size": 32}, "train_image": params.model_dump()}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(written))
        return tmp_path

    return write


def started(project, **variables):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path]), **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "cxr_mm", "train-image", "spot"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def trained(project, *variables):
    """Weights and figures by a process for each set of variables."""
    shutil.rmtree(project / "models", ignore_errors=True)
    processes = [started(project, **each) for each in variables]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert not any(process.returncode for process in processes), outputs
    folder = project / "models/spot/image_encoder"
    weights = load_file(folder / "encoder.safetensors")
    return weights, json.loads((folder / "history.json").read_text())["epochs"]


def slurm(rank):
    """What `srun` tells the process of the first or second of two machines."""
    return {
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 10_000),  # from which Lightning takes its port
        "SLURM_JOB_NAME": "training",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODEID": str(rank),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": "0",
    }


def test_two_processes_that_slurm_started_train_as_one_does(project):
    alone, figures_alone = trained(project(), {})
    together, figures = trained(project(num_nodes=2), slurm(0), slurm(1))
    assert alone.keys() == together.keys()
    moved = max(float((alone[name] - together[name]).abs().max()) for name in alone)
    assert moved < 1e-5
    for one, other in zip(figures_alone, figures, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_killed_process_fails_the_stage_and_leaves_nothing(project, spots):
    process = started(project(devices=2, epochs=500))
    until = time.monotonic() + 120
    while not list(spots.checkpoints.rglob("last.ckpt")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)
    (other,) = [
        each
        for each in psutil.Process(process.pid).children(recursive=True)
        if "train-image" in each.cmdline()
    ]
    other.send_signal(signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2, output
    assert "another of the 2 processes that train together has ended" in output
    assert not spots.image_encoder.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 3}, "cannot be shared evenly by 3 devices"),
        ({"num_nodes": 2, "precision": "auto"}, "name fp32 or bf16"),
        ({"strategy": "horovod"}, "train_image.strategy"),
    ],
)
def test_what_several_devices_cannot_share_is_refused(project, changes, message):
    folder = project()
    file = folder / "params.yaml"
    written = yaml.safe_load(file.read_text())
    written["train_image"] |= changes
    file.write_text(yaml.safe_dump(written))
    with pytest.raises(ParamsError, match=message):
        load_params(file)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("changes", "variables", "message"),
    [
        ({"strategy": "fsdp"}, {}, "`fsdp` requires a GPU"),
        ({"accelerator": "gpu"}, {}, "No supported gpu backend"),
        ({}, {"SLURM_STEP_NUM_TASKS": "2"}, "srun started 2 processes, but 1 are"),
        ({"devices": 2}, {"WORLD_SIZE": "4"}, "torchrun started 4 processes, but 2 are"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    spots, spot_task, spot_params, monkeypatch, changes, variables, message
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ParamsError, match=message):
        train_image(spot_task(), spot_params(**changes), spots)


@pytest.fixture
def alone_in_a_group(tmp_path):
    """A process group of this process."""
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.BatchNorm1d, (8, 5)), (BatchNormAct2d, (8, 5, 4, 4))]
)
def test_of_one_device_it_is_the_batch_norm_of_torch(alone_in_a_group, norm, shape):
    torch.manual_seed(0)
    images, found = torch.randn(shape) * 3 + 2, []
    for context in (nullcontext(), SharedBatchNorm()):
        module = norm(5)
        given = images.clone().requires_grad_()
        with context:
            result = module(given)
        result.square().sum().backward()
        found.append((result, given.grad, module.weight.grad, *module.buffers()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)
    with SharedBatchNorm():
        still = module.eval()(images)
    torch.testing.assert_close(still, module(images))
