"""Engine: where the shards of a long computation are worked through, in this process or by Ray."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import ValidationError

from cxr_mm.core.errors import InputError
from cxr_mm.core.shards.work import Load, Run, run_here
from cxr_mm.core.types import Frozen

EngineName = Literal["local", "ray"]


class EngineSettings(Frozen):
    """Where shards are worked through.

    Args:
        name: `local`, one worker in this process; or `ray`, as many as there are.
        address: of Ray's cluster: `local` starts one on this machine for the run, `auto` joins the
            one that this machine is a node of, `HOST:PORT` names its head.
        workers: processes of Ray, each with a model of its own; 0 is one for each processor.
    """

    name: EngineName = "local"
    address: str = "local"
    workers: int = 0


LOCAL = EngineSettings()
VARIABLES = {"name": "CXR_MM_ENGINE", "address": "CXR_MM_ADDRESS", "workers": "CXR_MM_WORKERS"}
"""Setting → environment variable, where there is no option."""


def engine_of_environment() -> EngineSettings:
    """Read where to compute from the environment; in this process, where it says nothing.

    Raises:
        InputError: a variable has a value that is none.
    """
    given = {name: os.environ[key] for name, key in VARIABLES.items() if key in os.environ}
    try:
        return EngineSettings.model_validate(given)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise InputError(
            f"{given[name]!r} is no such setting",
            field=VARIABLES[name],
            remedy="See docs/scale.md",
        ) from error


def run_shards(
    settings: EngineSettings, load: Load, shards: Sequence[int], *, in_order: bool = False
) -> Iterator[dict[str, Any]]:
    """Work through shards; results come as they are done.

    Args:
        settings: where.
        load: makes the work, once for each worker; Ray pickles it.
        shards: numbers of the shards.
        in_order: whether results come in the order of the shards from Ray too, which keeps those
            that are done before their turn.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
        CxrError: as `load` and the work.
    """
    if settings.name == "local":
        yield from run_here(load, shards)
        return
    from cxr_mm.inference.ray_engine import run_on_ray

    yield from run_on_ray(settings, load, shards, in_order=in_order)


def run_of(settings: EngineSettings) -> Run:
    """What works through shards there, results in order."""
    return run_here if settings.name == "local" else partial(run_shards, settings, in_order=True)
