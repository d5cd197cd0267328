"""Settings of monitoring: the typed, frozen mirror of monitoring.yaml."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from cxr_mm.alerts.settings import MailSettings, WebhookSettings
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
