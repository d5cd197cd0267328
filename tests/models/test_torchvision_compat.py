import subprocess
import sys

import torch

from cxr_mm.models.torchvision_compat import ensure_torchvision

IMPORTS = """
from cxr_mm.models.torchvision_compat import ensure_torchvision
print(ensure_torchvision())
import timm, lightning, pytorch_grad_cam
from transformers import BertModel
"""


def test_all_that_needs_torchvision_imports_after_it():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("native", "schemas defined")


def test_a_second_call_says_the_same_and_loads_nothing_again():
    state = ensure_torchvision()
    module = sys.modules["torchvision"]
    assert ensure_torchvision() == state
    assert sys.modules["torchvision"] is module
    assert hasattr(torch.ops.torchvision, "nms")
