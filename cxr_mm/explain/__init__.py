"""Explain: which input, and where in it, moved a prediction."""

import os

from cxr_mm.models.torchvision_compat import ensure_torchvision

# grad-cam imports torchvision; it has to be whole before.
ensure_torchvision()
# numba, which only shap uses, would compile shap's loops anew in every process for five seconds;
# in plain Python they take hundredths of one, for the same values.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
