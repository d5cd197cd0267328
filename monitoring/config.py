"""Settings of monitoring: the typed, frozen mirror of monitoring.yaml."""

from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from cxr_mm.core.errors import ParamsError
from cxr_mm.core.types import Frozen

SETTINGS_FILE = Path("monitoring.yaml")


class ScheduleSettings(Frozen):
    """When windows are run."""

    catch_up: int = Field(31, ge=1, le=10_000)
    """Missed windows that are run, newest first; `backfill` runs any others."""
    retry_minutes: float = Field(10.0, gt=0)
    """Minutes until a failed report is retried, at most twice."""
    grace_seconds: float = Field(60.0, ge=0)
    """Time that the current report may still take after a stop request."""
    lease_seconds: float = Field(60.0, ge=1)
    """Time after which another runner takes over from a killed one."""


class ReportSettings(Frozen):
    """Limits of one report."""

    memory_mib: int = Field(2048, ge=64)
    """Memory of its process, in MiB."""
    minutes: float = Field(30.0, gt=0)
    """Time after which it is killed."""


class RetentionSettings(Frozen):
    """How long pages are kept; verdict.json always is."""

    keep_days: int = Field(400, ge=1)
    """Days after which pages are removed."""
    keep_last: int = Field(30, ge=1)
    """Reports that keep their pages whatever their age."""


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


class PrometheusSettings(Frozen):
    """A text file for the textfile collector of node_exporter."""

    folder: Path
    """Folder that node_exporter collects text files from."""


class AlertSettings(Frozen):
    """Channels that a change of the verdict is sent to."""

    least: Literal["warn", "alarm"] = "warn"
    """Verdicts below it count as ok."""
    webhook: WebhookSettings | None = None
    """Signed POST; null sends none."""
    mail: MailSettings | None = None
    """E-mail; null sends none."""
    prometheus: PrometheusSettings | None = None
    """Text file; null writes none."""


class MonitorParams(Frozen):
    """Contents of monitoring.yaml; every section is optional."""

    schedule: ScheduleSettings = ScheduleSettings()
    report: ReportSettings = ReportSettings()
    retention: RetentionSettings = RetentionSettings()
    alerts: AlertSettings = AlertSettings()


def load_settings(path: Path | None = None) -> MonitorParams:
    """Read the settings.

    Args:
        path: the file; None reads monitoring.yaml where there is one.

    Raises:
        ParamsError: the file is missing, is not YAML, or a setting is unknown or out of range.
    """
    if path is None and not SETTINGS_FILE.exists():
        return MonitorParams()
    path = path or SETTINGS_FILE
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return MonitorParams.model_validate(raw or {})
    except OSError as error:
        raise ParamsError(f"cannot be read ({error.strerror})", field=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"not YAML: {error}", field=str(path)) from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "top level"
        raise ParamsError(first["msg"], field=f"{path}: {field}") from error
