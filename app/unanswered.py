"""Unanswered: requests that got no prediction, kept in the log beside the predictions."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from cxr_mm.contracts.record import ServiceEvent
from cxr_mm.contracts.task import Task
from cxr_mm.errors import CancelledError, CxrError, InputError, LogError, RadiographError
from cxr_mm.prediction_log import PredictionLog

Kind = Literal["refused_film", "bad_input", "failure"]


@contextmanager
def kept_unanswered(
    log: PredictionLog | None, task: Task, digest: str, *, asked: bool
) -> Iterator[None]:
    """Keep what the body raises, and raise it.

    Args:
        log: where; None keeps nothing.
        task, digest: of the model.
        asked: whether the body asks the model, which refuses films; else it reads what was given.
    """
    try:
        yield
    except CancelledError:
        raise
    except Exception as error:
        keep_unanswered(log, task, digest, error, asked=asked)
        raise


def keep_unanswered(
    log: PredictionLog | None, task: Task, digest: str, error: Exception, *, asked: bool
) -> None:
    """Keep one request; a log that fails loses it and nothing else."""
    if log is None:
        return
    event = ServiceEvent(
        created_at=log.clock(),
        task=task.name,
        digest=digest,
        kind=_kind(error, asked),
        field=_field(error, task),
    )
    with suppress(LogError):
        log.add_events([event])


def _kind(error: Exception, asked: bool) -> Kind:
    if not isinstance(error, InputError):
        return "failure"
    return "refused_film" if asked and isinstance(error, RadiographError) else "bad_input"


def _field(error: Exception, task: Task) -> str:
    """The field at fault, if it is a name of the task's own: others may hold what was typed."""
    field = error.field if isinstance(error, CxrError) else ""
    return field if field in {"image", "note", "view", *task.clinical_names} else ""
