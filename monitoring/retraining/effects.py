"""Effects: what changes with a challenger, in data, parameters, operating points and answers."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxr_mm import __version__
from cxr_mm.data.additions import additions_fingerprint
from cxr_mm.data.sources.base import files_below
from cxr_mm.models.bundle import Bundle
from cxr_mm.paths import TaskPaths
from monitoring.retraining.comparison import Sample

DATA = ("manifest_sha256", "pixels_sha256", "studies", "groups")


def change(champion: Bundle, challenger: Bundle, paths: TaskPaths) -> dict[str, Any]:
    """Data, parameters and code: what the two were made of.

    Args:
        paths: of the experiment.
    """
    before, after = champion.trained_on, challenger.trained_on
    old, new = (_flat(known.get("params", {})) for known in (before, after))
    return {
        "data": {
            "champion": {name: before.get(name) for name in DATA},
            "challenger": {name: after.get(name) for name in DATA},
            "additions": additions_fingerprint(paths),
        },
        "parameters": [
            {"name": name, "champion": old.get(name), "challenger": new.get(name)}
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ],
        "code": {"version": __version__, "digest": _code(paths.root)},
    }


def impact(champion: Bundle, challenger: Bundle, newest: Sample) -> dict[str, Any]:
    """Operating points of all inputs together, and how answers on the newest studies would turn."""
    task = challenger.task
    points, turned = {}, {}
    for name in task.finding_names:
        before, after = (b.operating_point(name, task.modalities) for b in (champion, challenger))
        points[name] = {
            "champion": before.model_dump(mode="json") if before else None,
            "challenger": after.model_dump(mode="json") if after else None,
        }
        old, new = (table[f"positive.{name}"] for table in (newest.champion, newest.challenger))
        moved = newest.challenger[f"probability.{name}"] - newest.champion[f"probability.{name}"]
        turned[name] = {
            "n": len(old),
            "to_positive": int((new & ~old).sum()),
            "to_negative": int((old & ~new).sum()),
            "mean_absolute_change": float(np.abs(moved).mean()),
        }
    return {"operating_points": points, "turned": turned}


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested parameters under dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        found |= _flat(value, f"{before}{name}.") if inner else {f"{before}{name}": value}
    return found


def _code(folder: Path) -> str:
    """Digest of the code that lies in an experiment."""
    digest = hashlib.sha256()
    for package in ("cxr_mm", "monitoring"):
        for file in files_below(folder / package):
            if file.suffix in (".py", ".yaml"):
                digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()
