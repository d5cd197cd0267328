"""Extras: packages that one format of export needs, and nothing else does."""

import importlib

from cxr_mm.core.errors import InputError


def check_packages(form: str, packages: tuple[str, ...]) -> None:
    """Check that the packages of an extra are there.

    Args:
        form: the format, which the extra is named after.
        packages: names to import.

    Raises:
        InputError: one of them is not installed.
    """
    try:
        for name in packages:
            importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"it needs {' and '.join(packages)}, which {'is' if len(packages) == 1 else 'are'} "
            "not installed",
            field=f"--format {form}",
            remedy=f"Install what is missing: pip install 'cxr-mm[{form}]'",
        ) from error
