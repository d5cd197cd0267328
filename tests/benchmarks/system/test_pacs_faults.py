"""Part `pacs-faults`: a few images through a node that is killed, and an archive that is away."""

import pytest

from benchmarks.system import pacs_faults, pacs_peers
from cxr_mm.core.errors import StageError


def test_nothing_is_lost_or_doubled(monkeypatch, pipeline):
    for name, value in {
        "IMAGES": 5,
        "TWICE": 2,
        "KILLS": 2,
        "AWAY_IMAGES": 2,
        "AWAY": 120.0,
        "MESSAGES": 40,
        "MEMORY": 2.0,
        "SETTLE": 1.0,
    }.items():
        monkeypatch.setattr(pacs_faults, name, value)
    for name, value in {"PHANTOMS": 2, "SIDE": 256}.items():
        monkeypatch.setattr(pacs_peers, name, value)
    monkeypatch.setattr(pacs_faults, "paths_of", lambda task: pipeline.paths)
    try:
        rows = pacs_faults.measure()
    except StageError as error:
        pytest.skip(f"{error.field} is not installed")
    assert [(row.metric, row.value) for row in rows[:-1]] == [
        ("objects lost", 0),
        ("objects doubled", 0),
        ("records of the log beyond or below one for each", 0),
        ("objects lost", 0),
        ("objects doubled", 0),
        ("objects refused afterwards", 0),
    ]
    assert rows[-1].metric == "memory against that after a tenth of them"
