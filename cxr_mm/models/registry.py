"""Registry: bundles found by folder or pointer file, and their indexes, read without torch.

serving/TASK/current.json           the pointer, which names a bundle instead of its folder
serving/TASK/versions/DIGEST12/     bundle/, and reports of this bundle
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, Field, ValidationError

from cxr_mm.core.errors import BundleError
from cxr_mm.core.files import read_json, sha256_file, to_json
from cxr_mm.core.paths import BUNDLE_INDEX, DIGEST_SHOWN
from cxr_mm.core.prediction import Reason
from cxr_mm.core.task import Task
from cxr_mm.core.types import Frozen
from cxr_mm.models.decision import Conformal, OperatingPoints


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


FORMAT = 1
"""Version of the layout of a bundle."""
REMEDY = "Copy the bundle again, or run the stage fuse again"


class BundleIndex(Frozen):
    """What bundle.json says."""

    format: int
    name: str
    task: Task
    size: int
    """Side of the square image in pixels."""
    note_words: int
    mask_text: bool = False
    """Whether burnt-in text is masked; a bundle of an earlier version masks none."""
    decision: Reason
    """The operating point that predictions use."""
    operating_points: OperatingPoints
    conformal: Conformal
    """Bounds between which an answer cannot be ruled out."""
    trained_on: dict[str, Any]
    """Digest of the manifest, numbers of studies and patients, parameters."""
    parts: dict[str, str]
    """File → sha256."""
    digest: str = ""
    """sha256 over all of the above."""


def index_digest(content: Mapping[str, Any]) -> str:
    """Compute the digest over the content of bundle.json, all but the digest itself.

    It is of what is written, not of what was read from it: a later version may know more fields.
    """
    text = to_json({name: value for name, value in content.items() if name != "digest"})
    return hashlib.sha256(text.encode()).hexdigest()


def read_index(folder: Path) -> BundleIndex:
    """Read bundle.json and check every part against its digest.

    Raises:
        BundleError: the folder is no bundle, or a part is missing, added or changed.
    """
    try:
        raw = read_json(folder / BUNDLE_INDEX)
        index = BundleIndex.model_validate(raw)
        _check_parts(folder, index, index_digest(raw))
    except FileNotFoundError as error:
        there = folder.is_dir()
        raise BundleError(
            f"there is no {BUNDLE_INDEX} in it" if there else "there is no such folder",
            field=str(folder),
            remedy="Name a bundle's folder, as models/synthetic/bundle",
        ) from error
    except OSError as error:
        raise BundleError(
            f"cannot be read ({error.strerror})",
            field=str(error.filename or folder),
            remedy="Let this account read the bundle's folder and every file in it",
        ) from error
    except (ValueError, ValidationError) as error:
        raise BundleError(
            f"{BUNDLE_INDEX} is damaged or of another version", field=str(folder), remedy=REMEDY
        ) from error
    return index


def _check_parts(folder: Path, index: BundleIndex, digest: str) -> None:
    if index.format != FORMAT:
        raise BundleError(
            f"its format is {index.format}, this version reads {FORMAT}", field=str(folder)
        )
    if digest != index.digest:
        raise BundleError(f"{BUNDLE_INDEX} was changed", field=str(folder), remedy=REMEDY)
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    for part in sorted(present ^ {BUNDLE_INDEX, *index.parts}):
        what = "is missing" if part in index.parts else "does not belong to it"
        raise BundleError(f"{part} {what}", field=str(folder), remedy=REMEDY)
    for part, expected in index.parts.items():
        if sha256_file(folder / part) != expected:
            raise BundleError(
                f"{part} was changed: its digest differs", field=str(folder), remedy=REMEDY
            )
