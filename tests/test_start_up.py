"""Start-up: one way of errors, imports that an answer needs, memory kept between passes."""

import errno
import importlib
import io
import json
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import typer
from PIL import Image

from cxr_mm.cli import _heartbeat
from cxr_mm.core.files import write_json
from cxr_mm.core.paths import bundle_digest
from cxr_mm.models.registry import read_index

PREDICT = """
import json, sys
from cxr_mm.cli import app
try:
    app(sys.argv[1:])
except SystemExit as done:
    print(json.dumps([done.code, sorted(sys.modules)]), file=sys.stderr)
"""
NOT_NEEDED = (
    "torch._dynamo", "transformers", "sklearn", "scipy.optimize", "scipy.stats", "lightning",
    "gradio", "evidently", "matplotlib",
)  # fmt: skip
UNUSED = {
    "cxr_mm": ("numpy", "pandas", "pydantic", "torch"),
    "cxr_mm.data.ingest, cxr_mm.data.split, cxr_mm.evaluation.evaluate, monitoring.cli,"
    "monitoring.retraining.promotion": ("torch", "evidently"),
    "monitoring.scheduler.runner": ("torch", "pandas", "scipy", "sklearn"),
    "app.pacs.node, cxr_mm.imaging.decoder": ("torch", "pandas", "pyarrow", "fpdf"),
    "app.server, cxr_mm.explain.stage, cxr_mm.training.train_image, cxr_mm.api.model": (
        "shap", "numba", "sklearn", "scipy.stats", "skimage", "lightning", "torch._dynamo",
        "highdicom", "pynetdicom", "fpdf",
    ),
}  # fmt: skip
"""What is imported where it is used alone, so that a command starts within seconds."""
METRICS = {"task": "synthetic", "title": "T", "n_studies": 1, "n_patients": 1}
FIGURE = {"value": 0.5, "ci95": None}
NAMES = ("auc", "accuracy", "sensitivity", "specificity", "brier", "ece")
SUBSETS = {"available": {"n": 1, "findings": {"effusion": dict.fromkeys(NAMES, FIGURE)}}}
FAULTS = """
import resource, torch
from cxr_mm.core.allocator import keep_freed_memory
torch.set_num_threads(1)
print(keep_freed_memory())
network = torch.nn.Conv2d(8, 64, 3)
pixels = torch.zeros(4, 8, 256, 256)
with torch.inference_mode():
    network(pixels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        network(pixels)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

AT_THE_END = """
from cxr_mm.core.allocator import skip_last_collection
class Part:
    def __del__(self):
        print("collected")
if {skips}:
    skip_last_collection()
part = Part()
part.itself = part
del part
"""


def test_a_cold_prediction_imports_nothing_that_its_answer_does_not_need(bundle_folder, tmp_path):
    image = tmp_path / "image.png"
    Image.linear_gradient("L").save(image)
    study = ["--image", str(image), "--clinical", "age=63", "--note", "Fever and cough."]
    words = ["predict", "--bundle", str(bundle_folder), "--accept-any-image", *study]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, *words], capture_output=True, text=True, check=True
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0
    assert not {name for name in NOT_NEEDED if name in modules}


@pytest.mark.parametrize(("modules", "unused"), UNUSED.items())
def test_a_command_imports_no_library_that_it_may_not_need(modules, unused):
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(unused) & set(done.stdout.split())


def test_explanations_compile_nothing_anew_in_each_process():
    code = "import cxr_mm.explain, numba; print(numba.njit(code := lambda: 1) is code)"
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_DISABLE_JIT"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "True\n"


def test_the_summary_reads_the_digest_without_torch(bundle_folder, tmp_path):
    folder = tmp_path / "models/synthetic"
    folder.mkdir(parents=True)
    (folder / "bundle").symlink_to(bundle_folder)
    digest = bundle_digest(bundle_folder)
    assert digest == read_index(bundle_folder).digest
    write_json(
        tmp_path / "reports/synthetic/metrics.json",
        METRICS | {"digest": digest, "subsets": SUBSETS},
    )
    (tmp_path / "reports/synthetic/model_card.md").write_text(digest)
    words = [sys.executable, "-c", PREDICT, "summary", "synthetic"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0
    assert "torch" not in modules


@pytest.mark.parametrize(
    ("entry", "work", "words"),
    [
        ("cxr_mm.cli", "cxr_mm.cli.app", []),
        ("monitoring.cli", "monitoring.cli.app", []),
        ("app.__main__", "app.__main__.serve_one", ["--bundle", "models/synthetic/bundle"]),
        ("app.security.auth", "app.security.auth.add_user", ["users.txt", "ann", "--stdin"]),
    ],
)
def test_a_full_disk_is_one_line_at_every_entry_point(entry, work, words, monkeypatch, capsys):
    def fill(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.csv")

    fill.add_typer = lambda *_, **__: None  # groups of other packages are added to an app
    module = importlib.import_module(entry)
    monkeypatch.setattr(work, fill)
    monkeypatch.setattr(sys, "argv", [entry, *words])
    monkeypatch.setattr(sys, "stdin", io.StringIO("a long password\n"))
    command = getattr(module, "serve", None) or module.main
    with pytest.raises(SystemExit) as stop:
        typer.run(command) if words else command()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: out.csv: No space left on device.\n"


def test_the_last_collection_is_skipped():
    ends = [
        subprocess.run(
            [sys.executable, "-c", AT_THE_END.format(skips=skips)],
            capture_output=True, text=True, check=True,
        ).stdout
        for skips in (False, True)
    ]  # fmt: skip
    assert ends == ["collected\n", ""]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-m", "cxr_mm", "fuse", "nowhere"], "fuse nowhere"),
        (["-m", "cxr_mm", "predict", "--bundle", "nowhere"], "predict"),
        (["-m", "monitoring", "report", "--bundle", "nowhere"], "monitoring report"),
        (["-m", "app", "--bundle", "nowhere"], "loading nowhere"),
        (["-m", "cxr_mm", "version"], None),
    ],
)
def test_a_command_that_takes_seconds_says_at_once_what_it_does(words, line, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment,
    ) as process:
        first = process.stderr.readline()
        process.kill()  # what it does after that takes seconds
    assert first == (f"{line}\n" if line else "")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is set on Linux alone")
def test_a_second_forward_pass_faults_hardly_a_page(monkeypatch):
    faults = {}
    for switch in ("0", "1"):
        monkeypatch.setenv("CXR_MM_MALLOC", switch)
        done = subprocess.run(
            [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
        )
        is_kept, count = done.stdout.split()
        assert is_kept == str(switch == "1")
        faults[switch] = int(count)
    assert faults["1"] < 0.1 * faults["0"], faults


def test_a_command_that_runs_for_ever_writes_no_lines_for_ever():
    assert isinstance(_heartbeat(["pacs", "run", "node.yaml"]), nullcontext)
    assert not isinstance(_heartbeat(["score", "--bundle"]), nullcontext)
