"""Images in an object store: a URL of S3, Google Cloud Storage or Azure becomes its bytes.

Credentials, region and endpoint are those of the store's own environment variables and files
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME).
"""

import re
from pathlib import Path

from cxr_mm.core.errors import InputError, RadiographError
from cxr_mm.imaging.dicom import too_large
from cxr_mm.imaging.image_header import MAX_BYTES

SCHEME = re.compile(r"([a-z][a-z0-9+]+)://", re.IGNORECASE)
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
"""Scheme → extra whose package reads it."""
SCHEMES = (*EXTRAS, "file")


def is_url(text: str) -> bool:
    """Whether the place of an image is a URL, not a path."""
    return SCHEME.match(text) is not None


def place_of(text: str) -> Path | str:
    """Where an image is: a path, or a URL as it stands."""
    return text if is_url(text) else Path(text)


def read_url(url: str) -> bytes:
    """Read an image by its URL.

    Raises:
        RadiographError: there is no such object, it is too large, or no scheme of `SCHEMES`.
        InputError: it may be there and cannot be had now: no package, permission or network.
    """
    found = SCHEME.match(url)
    scheme = found[1].lower() if found else ""
    if scheme not in SCHEMES:
        raise RadiographError(
            f"images are not read by {scheme}", field=url, remedy=f"Use {', '.join(SCHEMES)}"
        )
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        if system.info(path)["size"] > MAX_BYTES:
            raise too_large(f"more than {MAX_BYTES // 1024**2} MiB", url)
        return bytes(system.cat_file(path))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise RadiographError("no such object", field=url, remedy="Check the URL") from error
    except Exception as error:
        raise _unavailable(url, scheme, error) from error


def _unavailable(url: str, scheme: str, error: Exception) -> InputError:
    """Say that an object cannot be had now, so that its study fails and is not answered without."""
    if isinstance(error, ImportError):
        extra = EXTRAS.get(scheme, scheme)
        return InputError(
            f"nothing is installed that reads {scheme}",
            field=url,
            remedy=f"Install it: pip install 'cxr-mm[{extra}]'",
        )
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return InputError(
            "no permission to read it", field=url, remedy="Check the credentials and their rights"
        )
    return InputError(
        f"the store cannot be reached ({type(error).__name__})",
        field=url,
        remedy="Check network and endpoint, and score the failed studies again",
    )
