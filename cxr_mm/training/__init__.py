"""Training: the stages train_image, embed and fuse."""

from cxr_mm.models.torchvision_compat import ensure_torchvision

# lightning imports torchvision, and third-party imports come first in every module.
ensure_torchvision()
