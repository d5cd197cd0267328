"""Streaming detectors on errors in time order: they say since when, where windows say whether.

ADWIN (Bifet and Gavaldà 2007), Page-Hinkley (Page 1954), DDM (Gama et al. 2004), from river. Each
first sees the errors on the reference, in an order drawn at random. They raise no alarm: on no
drift at all each speaks now and then, and no threshold of theirs keeps a rate over years.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from river.drift import ADWIN, PageHinkley
from river.drift.binary import DDM

DETECTORS: dict[str, Callable[[], Any]] = {
    "ADWIN": lambda: ADWIN(delta=0.002),
    "Page-Hinkley": lambda: PageHinkley(threshold=10.0, mode="up"),
    "DDM": lambda: DDM(warm_start=30),
}


@dataclass(frozen=True)
class Since:
    """What a detector says of a finding's errors.

    Args:
        finding, detector: whose and which.
        study: number of the labelled study, from 1, at which it first spoke; None if it did not.
        when: time of that study's prediction.
        n: labelled studies that it saw.
    """

    finding: str
    detector: str
    study: int | None
    when: datetime | None
    n: int


def detect(
    stream: pd.DataFrame, reference: pd.DataFrame, findings: Sequence[str], seed: int = 0
) -> list[Since]:
    """Run every detector over the labelled studies in the order of their predictions."""
    rng = np.random.default_rng(seed)
    ordered = stream.sort_values("created_at", kind="stable")
    return [
        _run(ordered, _errors(reference, name)[1], name, detector, rng)
        for name in findings
        for detector in DETECTORS
    ]


def _run(
    stream: pd.DataFrame,
    before: "np.ndarray[Any, Any]",
    finding: str,
    detector: str,
    rng: np.random.Generator,
) -> Since:
    watch = DETECTORS[detector]()
    for error in rng.permutation(before):
        watch.update(int(error))
    times, errors = _errors(stream, finding)
    for place, error in enumerate(errors):
        watch.update(int(error))
        if watch.drift_detected:
            return Since(finding, detector, place + 1, times.iloc[place], len(errors))
    return Since(finding, detector, None, None, len(errors))


def _errors(table: pd.DataFrame, finding: str) -> "tuple[pd.Series[Any], np.ndarray[Any, Any]]":
    """Times and errors (1 wrong, 0 right) of the labelled studies."""
    known = table[table[f"label.{finding}"].notna() & table[f"positive.{finding}"].notna()]
    wrong = (known[f"positive.{finding}"] == "yes") != (known[f"label.{finding}"] == 1)
    return known["created_at"], wrong.to_numpy(int)
