"""Engine: where the shards of a long computation are worked through, in this process or by Ray."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from cxr_mm.core.types import Frozen

EngineName = Literal["local", "ray"]
Work = Callable[[Sequence[int]], Iterator[dict[str, Any]]]
"""Shards → one result for each, in order, as plain values; a shard may be given twice."""


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


def run_shards(
    settings: EngineSettings, load: Callable[[], Work], shards: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Work through shards; results come as they are done, by Ray in any order.

    Args:
        settings: where.
        load: makes the work, once for each worker; Ray pickles it.
        shards: numbers of the shards.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
        CxrError: as `load` and the work.
    """
    if settings.name == "local":
        yield from load()(shards)
        return
    from cxr_mm.inference.ray_engine import run_on_ray

    yield from run_on_ray(settings, load, shards)
