"""The synthetic source: a made-up population of chest radiographs, clinical features and notes.

Written to disk in the layout of the manifest CSV source, with pixel masks of every lesion. The
model behind it is in docs/synthetic.md.
"""

from cxr_mm.data.sources.synthetic.spec import SynthesisSpec
from cxr_mm.data.sources.synthetic.writing import read_synthetic, synthesise

__all__ = ["SynthesisSpec", "read_synthetic", "synthesise"]
