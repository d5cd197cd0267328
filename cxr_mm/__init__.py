"""cxr_mm: chest radiographs, clinical features and notes, from raw files to a monitored model."""

import os

__version__ = "0.2.0"

# Nothing leaves the machine unless asked: these are read when the libraries are imported.
for _variable, _off in {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}.items():
    os.environ.setdefault(_variable, _off)
