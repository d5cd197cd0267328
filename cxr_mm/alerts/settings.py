"""Settings of the channels that alerts are sent by."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from cxr_mm.core.types import Frozen


class WebhookSettings(Frozen):
    """A POST of JSON, signed."""

    url: str
    """Address that takes the POST, `http` or `https`."""
    secret_variable: str
    """Environment variable that holds the key of the signature."""
    timeout_seconds: float = Field(10.0, gt=0, le=120)
    """Time that one attempt may take."""
    tries: int = Field(4, ge=1, le=10)
    """Attempts; each waits twice as long as the one before, from a second on."""

    @field_validator("url")
    @classmethod
    def _web(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with http:// or https:// and name a host")
        if parts.username or parts.password:
            raise ValueError("must hold no password")
        return url


class MailSettings(Frozen):
    """E-mail by SMTP."""

    host: str
    """SMTP server."""
    port: int = Field(587, ge=1, le=65535)
    """Port of the server."""
    security: Literal["starttls", "ssl", "none"] = "starttls"
    """Encryption; `none` only without a user."""
    sender: str
    """Address that the mail is from."""
    recipients: tuple[str, ...] = Field(min_length=1)
    """Addresses that the mail is sent to."""
    user: str | None = None
    """Name to sign in with; null signs in nowhere."""
    password_variable: str | None = None
    """Environment variable that contains the password of the user."""
    password_file: Path | None = None
    """File that contains it, in place of the variable."""
    timeout_seconds: float = Field(20.0, gt=0, le=120)
    """Time that the server may take to answer."""

    @model_validator(mode="after")
    def _password_is_guarded(self) -> Self:
        named = [x for x in (self.password_variable, self.password_file) if x is not None]
        if bool(self.user) != (len(named) == 1):
            raise ValueError("a user needs one of password_variable and password_file")
        if self.user and self.security == "none":
            raise ValueError("a password needs starttls or ssl")
        return self
