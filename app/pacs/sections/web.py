"""What the node's file says of services that are asked by HTTP."""

import os
import ssl
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from cxr_mm.core.errors import ParamsError
from cxr_mm.core.types import Frozen

SignIn = Literal["none", "basic", "bearer"]
LOCAL = ("localhost", "127.0.0.1", "::1")


class HttpService(Frozen):
    """A service, how the node signs in to it, and how long it waits for it."""

    url: str
    """Root of the service, as `https://pacs.example.org/dicom-web`. Other machines are asked by
    https alone."""
    sign_in: SignIn = "none"
    """`basic` (the secret is `user:password`) or `bearer` (it is a token)."""
    secret_file: Path | None = None
    """File with the secret, readable by the node's user alone; read again for each connection."""
    secret_variable: str = ""
    """Environment variable with the secret, instead of a file."""
    authority: Path | None = None
    """PEM file with the authority of the service's certificate; null takes those of the system."""
    seconds: float = Field(30.0, gt=0)
    """To connect, and between two pieces of an answer; a whole answer gets ten times as long."""

    @field_validator("url")
    @classmethod
    def _safe(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write it as https://host/path")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("name host and path alone; a secret is in a file or a variable")
        if parts.scheme == "http" and parts.hostname not in LOCAL:
            raise ValueError("others than this machine are asked by https alone")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _has_a_secret(self) -> Self:
        sources = (self.secret_file is not None) + bool(self.secret_variable)
        if sources != (self.sign_in != "none"):
            raise ValueError(
                "`sign_in: basic` and `bearer` need either secret_file or secret_variable, `none` "
                "neither"
            )
        return self

    def below(self, root: Path) -> Self:
        """The same with absolute paths."""
        names = ("secret_file", "authority")
        paths = {name: root / path for name in names if (path := getattr(self, name)) is not None}
        return self.model_copy(update=paths)

    def secret(self) -> str:
        """The secret as it is now; empty without sign-in.

        Raises:
            ParamsError: it is missing, or others can read its file.
        """
        if self.sign_in == "none":
            return ""
        found = self._read(self.secret_file) if self.secret_file else ""
        found = found or os.environ.get(self.secret_variable, "")
        if not found.strip() or not found.isprintable():
            raise ParamsError(
                "the secret is missing, or more than one line",
                field=str(self.secret_file or self.secret_variable),
                remedy="Write it as one line: a token, or user:password",
            )
        return found.strip()

    def _read(self, path: Path) -> str:
        try:
            if path.stat().st_mode & 0o077:
                raise ParamsError("others can read it", field=str(path), remedy=f"chmod 600 {path}")
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ParamsError(
                f"the secret cannot be read ({type(error).__name__})",
                field=str(path),
                remedy="Name a text file of the node's user",
            ) from None

    def verification(self) -> ssl.SSLContext:
        """TLS of a client that checks the service's certificate.

        Raises:
            ParamsError: the authority cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.authority)
        except OSError as error:
            raise ParamsError(
                f"the authority cannot be used ({error.strerror or error})",
                field=str(self.authority),
                remedy="Name a PEM file with the authority's certificate",
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


class PollSettings(Frozen):
    """What is fetched from an archive (QIDO-RS and WADO-RS), and how often it is asked."""

    modality: tuple[str, ...] = Field(("CR", "DX"), min_length=1)
    """Modalities of the series that are fetched."""
    every_seconds: float = Field(30.0, gt=0)
    """Between two looks."""
    overlap_days: int = Field(2, ge=1, le=366)
    """By which a look reaches back behind the one before, by date of study: for studies that the
    archive gets late, and clocks that differ."""
    first_days: int = Field(1, ge=0)
    """By which the first look reaches back."""
    attempts: int = Field(5, ge=1)
    """At one object that the archive does not give, or that cannot be taken."""
    most_studies: int = Field(10_000, ge=1)
    """Of one look. One that finds more takes no others and is counted: shorten the overlap."""


class WebService(HttpService):
    """A peer's DICOMweb service (DICOM PS3.18)."""

    send: bool = True
    """Send answers by STOW-RS; false sends them by C-STORE."""
    poll: PollSettings | None = None
    """Fetch new radiographs from it; null fetches none."""
