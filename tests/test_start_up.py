"""Start-up: a cold prediction imports what its answer needs, and memory is kept between passes."""

import json
import subprocess
import sys

import pytest
from PIL import Image

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
