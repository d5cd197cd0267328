"""Benchmarks: figures that anyone can measure again with `make benchmark`."""

import os

# shap is compared with as it comes, compiled, which `cxr_mm.explain` would forgo.
os.environ.setdefault("NUMBA_DISABLE_JIT", "0")
