"""Harness: runs, timing, the parts and the report they are written into."""
