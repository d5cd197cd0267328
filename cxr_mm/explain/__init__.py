"""Explain: which input, and where in it, moved a prediction."""

from cxr_mm.models.torchvision_compat import ensure_torchvision

# grad-cam imports torchvision; it has to be whole before.
ensure_torchvision()
