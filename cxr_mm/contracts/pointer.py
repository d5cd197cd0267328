"""Pointer: which version of a task's model serves, as `serving/TASK/current.json` says it."""

from pydantic import AwareDatetime, Field

from cxr_mm.contracts.frozen import Frozen

DIGEST_SHOWN = 12
"""Characters of a digest by which a version is called."""


class Pointer(Frozen):
    """One version of a task's model, and those that served before it.

    Args:
        task: name of the task.
        folder: of the version, as seen from the folder that the pointer lies in.
        digest: of the version's bundle.
        since: when it was pointed to, UTC.
        by: who said so.
        record: ID of the change record that led to it; empty for the first version.
        before: folders of the versions that served before, oldest first.
    """

    task: str
    folder: str
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    since: AwareDatetime
    by: str = Field(min_length=1)
    record: str = ""
    before: tuple[str, ...] = ()
