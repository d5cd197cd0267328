"""Extras: packages that one format of export needs, and nothing else does."""

import importlib
import warnings

from cxr_mm.core.errors import InputError


def check_packages(form: str, packages: tuple[str, ...]) -> None:
    """Import the packages of an extra, without what they warn of among one another.

    Args:
        form: the format, which the extra is named after.
        packages: names of modules to import.

    Raises:
        InputError: one of them is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in packages:
                importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"it needs {' and '.join(packages)}, which {'is' if len(packages) == 1 else 'are'} "
            "not installed",
            field=f"--format {form}",
            remedy=f"Install what is missing: pip install 'cxr-mm[{form}]'",
        ) from error
