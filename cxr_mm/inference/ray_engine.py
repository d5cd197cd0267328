"""Ray: shards are worked through by a pool of Ray Data's actors, each with a model of its own.

Ray Data has checkpoints of rows by id. They are not used: they load every id that is done into
memory, and put other studies into a batch after a restart, which changes probabilities in their
last bits. A shard that is done is known by its file instead.
"""

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from cxr_mm.core.errors import CxrError, InputError
from cxr_mm.core.shards.work import Load
from cxr_mm.inference.engine import EngineSettings

TASK = 8
"""Shards of one task of an actor; the next ones are read while the model is at work."""
TOKEN_FILE = Path("~/.ray/auth_token")
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""Settings of Ray unless the environment has others: no usage reports, no remarks on the way."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""What makes a cluster of one machine listen on loopback alone; without, on every interface, the
address 127.0.0.1 or not."""


class _Worker:
    """One actor: makes its work once, at its first task, since Ray keeps no error of a start."""

    def __init__(self, load: Load) -> None:
        self.work = cache(load)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for result in self.work()([int(shard) for shard in batch["shard"]]):
            yield {name: [value] for name, value in result.items()}


def run_on_ray(
    settings: EngineSettings, load: Load, shards: Sequence[int], *, in_order: bool
) -> Iterator[dict[str, Any]]:
    """Work through shards by actors; one that dies is replaced, and its task done again.

    Raises:
        InputError: Ray is not installed, there is no such cluster, or it has too few processors.
        CxrError: as `load` and the work.
    """
    with _runtime(settings.address) as ray:
        processors = int(ray.cluster_resources().get("CPU", 0))
        workers = settings.workers or processors
        if not 0 < workers <= processors:
            raise InputError(
                f"{workers} do not fit: the cluster has {processors} processors",
                field="--workers",
                remedy="Ask for no more workers than processors",
            )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # the command has one
        context.execution_options.preserve_order = in_order
        workers = min(workers, len(shards))
        tasks = max(-(-len(shards) // TASK), workers)
        results = ray.data.from_items(
            [{"shard": shard} for shard in shards], override_num_blocks=tasks
        ).map_batches(
            _Worker,
            fn_constructor_args=(load,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
        )
        try:
            yield from results.iter_rows()
        except ray.exceptions.RayError as error:
            raise _own_error(error) from error


def _own_error(error: BaseException) -> BaseException:
    """Find the error of the work in what Ray makes of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CxrError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return error


@contextmanager
def _runtime(address: str) -> Iterator[Any]:
    """Start Ray on this machine, or join a cluster; leave it, and stop what was started.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be joined.
    """
    for name, value in (QUIET | (LOOPBACK if address == "local" else {})).items():
        os.environ.setdefault(name, value)  # read when Ray is imported
    secure_token(address)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            "Ray is not installed",
            field="--engine ray",
            remedy="Install it: pip install 'cxr-mm[ray]'",
        ) from error
    started = not ray.is_initialized()
    if started:
        _start(ray, address)
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def _start(ray: Any, address: str) -> None:
    if address.startswith("ray://"):
        raise InputError(
            "Ray Data does not run through Ray Client",
            field=f"--address {address}",
            remedy="Run the command on a node of the cluster with --address auto, or HOST:PORT",
        )
    own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(
            address=address,
            logging_level="error",
            log_to_driver=False,
            **(own if address == "local" else {}),
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(
            f"Ray cannot be reached there ({str(error).splitlines()[0]})",
            field=f"--address {address}",
            remedy="Start it (ray start --head), see its token, or leave --address out",
        ) from error


def secure_token(address: str) -> None:
    """Turn token authentication on, with a token that no other account can read.

    A cluster of this run has a token of its own, in memory. One that is joined has that of its
    operator, in RAY_AUTH_TOKEN or a file; Ray up to 2.60.0 makes that file readable by all.

    Raises:
        InputError: the file of the token can be read by others.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    if address == "local":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
    if file.is_file() and stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise InputError(
            "other accounts can read Ray's token",
            field=str(file),
            remedy=f"Make a new one and keep it private: chmod 600 {file}",
        )
