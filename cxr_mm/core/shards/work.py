"""Work in shards: a long computation cut into parts with one result each, which may be kept.

Whoever runs it (`cxr_mm.inference.engine`) gives the shards to one worker or to many.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # the command line imports this module before it knows what to do
    from cxr_mm.core.shards.store import Store

Work = Callable[[Sequence[int]], Iterator[dict[str, Any]]]
"""Shards → one result for each, in order, as plain values, `shard` among them; a shard may be given
twice."""
Load = Callable[[], Work]
"""Makes the work, once for each worker."""
SHARDS = 2048
"""Shards of a long computation: a process that dies loses one at most, a 2048th of the work."""
LARGEST = 256
"""Batches in a shard, at most."""


class Run(Protocol):
    """What works through shards; results come in the order of the shards."""

    def __call__(self, load: Load, shards: Sequence[int], /) -> Iterator[dict[str, Any]]: ...


def run_here(load: Load, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Work through shards in this process."""
    yield from load()(shards)


def shard_size(items: int, batch: int) -> int:
    """Number of items in a shard, the last perhaps excepted: whole batches.

    Which items a batch has then follows from their number alone, whoever works on it.
    """
    return min(max(-(-items // (SHARDS * batch)), 1), LARGEST) * batch


def shards_of(items: int, size: int) -> range:
    """Numbers of the shards of so many items."""
    return range(-(-items // size))


def resumable(load: Load, kept: "Store") -> Load:
    """Keep each result as a file, so that a run that was killed goes on with those missing.

    Args:
        load: makes the work.
        kept: of this computation alone; its owner removes it at the end.
    """
    return partial(_resumable, load, kept)


def _resumable(load: Load, kept: "Store") -> Work:
    return partial(_work, load, kept)


def _work(load: Load, kept: "Store", numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    missing = [number for number in numbers if not kept.exists(_name(number))]
    results = load()(missing) if missing else iter(())
    for number in numbers:
        if number in missing:
            result = next(results)
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist([result]), sink)
            kept.write(_name(number), sink.getvalue())
            yield result
        else:
            yield pq.read_table(io.BytesIO(kept.read(_name(number)))).to_pylist()[0]


def _name(shard: int) -> str:
    return f"part-{shard:06d}.parquet"
