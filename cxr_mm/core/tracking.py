"""Tracking: what a stage tells a tracking server, if a team has one; by default nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Tracking:
    """Takes what a stage has to tell and sends it nowhere; a server's own class sends it."""

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Take parameters by name, each once."""

    def figures(self, values: Mapping[str, float | None], epoch: int = 0) -> None:
        """Take figures by name; those that are not defined are left out."""

    def tag(self, name: str, value: str) -> None:
        """Take a word that the run is found by."""

    def file(self, path: Path) -> None:
        """Take a file."""


UNTRACKED = Tracking()
DIGEST_TAG = "bundle"
"""Tag with the digest of the bundle, by which runs of `fuse` and `evaluate` are joined."""
