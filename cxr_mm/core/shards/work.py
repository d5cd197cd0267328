"""Work in shards: a long computation cut into parts with one result each, which may be kept.

Whoever runs it (`cxr_mm.inference.engine`) gives the shards to one worker or to many.
"""

import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
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
WORTH_KEEPING = 10_000
"""Items of a computation from which its results are kept on the way."""


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


@contextmanager
def keeping_results(load: Load, folder: Path, items: int, *identity: Any) -> Iterator[Load]:
    """Have results kept as files until all is done, so that a killed run goes on with the others.

    Args:
        load: makes the work.
        folder: where they are kept; on storage that every worker sees.
        items: length of the computation; a short one is not worth files.
        identity: JSON values that change whenever a result may; results of others are removed.
    """
    if items < WORTH_KEEPING:
        yield load
        return
    from cxr_mm.core.shards.store import Store

    own = folder / sha256(json.dumps(identity).encode()).hexdigest()[:16]
    for other in folder.glob("*"):
        if other != own:
            shutil.rmtree(other)
    yield partial(_keeping, load, Store.at(own))
    shutil.rmtree(folder)


def _keeping(load: Load, kept: "Store") -> Work:
    return partial(_work, load, kept)


def _work(load: Load, kept: "Store", numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    missing = {number for number in numbers if not kept.exists(_name(number))}
    results = load()([n for n in numbers if n in missing]) if missing else iter(())
    for number in numbers:
        if number in missing:
            result = next(results)
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist([result]), sink, compression="none")
            kept.write(_name(number), sink.getvalue())
            yield result
        else:
            yield pq.read_table(io.BytesIO(kept.read(_name(number)))).to_pylist()[0]


def _name(shard: int) -> str:
    return f"part-{shard:06d}.parquet"
