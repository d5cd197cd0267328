"""Models: encoders, fusion, calibration and the bundle that holds them."""

from cxr_mm.models.torchvision_compat import ensure_torchvision

# timm, transformers, lightning and grad-cam all import torchvision; it has to be whole before.
ensure_torchvision()
