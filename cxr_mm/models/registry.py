"""Pointer files: a bundle named by `serving/TASK/current.json` instead of by its folder.

serving/TASK/current.json           the pointer
serving/TASK/versions/DIGEST12/     bundle/, and reports of this bundle
"""

from pathlib import Path

from pydantic import AwareDatetime, Field, ValidationError

from cxr_mm.core.errors import BundleError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import DIGEST_SHOWN
from cxr_mm.core.types import Frozen


class Pointer(Frozen):
    """One version of a task's model, and those that served before it.

    Args:
        task: name of the task.
        folder: of the version, relative to the folder of the pointer.
        digest: of the version's bundle.
        since: when it became current, UTC.
        by: who made it current.
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
    """Whether the path of a bundle is a pointer, which ends in `.json`."""
    return bundle.suffix == ".json"


def read_pointer(path: Path) -> Pointer:
    """Read a pointer.

    Raises:
        BundleError: it is missing or invalid.
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
            "not a readable pointer",
            field=str(path),
            remedy="Point anew with python -m monitoring rollback or promote",
        ) from error


def resolved(bundle: Path) -> Path:
    """Folder of a bundle that is given by its folder or by a pointer.

    Raises:
        BundleError: the pointer cannot be read.
    """
    return bundle_of(bundle, read_pointer(bundle)) if is_pointer(bundle) else bundle


def bundle_of(path: Path, pointer: Pointer) -> Path:
    """Folder of the bundle of a pointer that was read from `path`."""
    return path.parent / pointer.folder / BUNDLE


def version_folder(task: str, digest: str, root: Path = Path()) -> Path:
    """Folder of a version, which need not exist.

    Args:
        root: folder of the project.
    """
    return root / SERVING / task / VERSIONS / digest[:DIGEST_SHOWN]
