"""Pointer files: a bundle named by `serving/TASK/current.json` instead of by its folder.

serving/TASK/current.json           the pointer
serving/TASK/versions/DIGEST12/     bundle/, and whatever belongs to this very bundle
"""

from pathlib import Path

from pydantic import AwareDatetime, Field, ValidationError

from cxr_mm.core.errors import BundleError
from cxr_mm.core.files import read_json
from cxr_mm.core.types import Frozen

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


SERVING = Path("serving")
"""Below the project's folder."""
POINTER_FILE, VERSIONS, BUNDLE = "current.json", "versions", "bundle"


def is_pointer(bundle: Path) -> bool:
    """Whether a bundle is named by a pointer; a folder never ends in `.json`."""
    return bundle.suffix == ".json"


def read_pointer(path: Path) -> Pointer:
    """Read a pointer.

    Raises:
        BundleError: it is missing or says no such thing.
    """
    try:
        return Pointer.model_validate(read_json(path))
    except FileNotFoundError as error:
        raise BundleError(
            "no such pointer",
            field=str(path),
            remedy="Make one with python -m monitoring adopt, or name a bundle's folder",
        ) from error
    except (OSError, ValueError, ValidationError) as error:
        raise BundleError(
            "it is no pointer that can be read",
            field=str(path),
            remedy="Point anew with python -m monitoring rollback or promote",
        ) from error


def resolved(bundle: Path) -> Path:
    """The folder of a bundle that is named by its folder or by a pointer.

    Raises:
        BundleError: the pointer cannot be read.
    """
    return bundle_of(bundle, read_pointer(bundle)) if is_pointer(bundle) else bundle


def bundle_of(path: Path, pointer: Pointer) -> Path:
    """Folder of the bundle that a pointer, read from `path`, names."""
    return path.parent / pointer.folder / BUNDLE


def version_folder(task: str, digest: str, root: Path = Path()) -> Path:
    """Folder of a version, there or not.

    Args:
        root: folder of the project.
    """
    return root / SERVING / task / VERSIONS / digest[:DIGEST_SHOWN]
