"""Data: sources, decoding, the one image transform and the one clinical transform, splits."""
