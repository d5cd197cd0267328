"""What the node's file says of figures and alerts."""

from pydantic import Field

from cxr_mm.alerts.settings import MailSettings, WebhookSettings
from cxr_mm.core.types import Frozen


class MetricsSettings(Frozen):
    """Figures of the node over HTTP, as text for Prometheus."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(ge=1, le=65535)
    """To listen on."""


class NodeAlertSettings(Frozen):
    """What a person is told of, and by which channels; a dead delivery always is."""

    webhook: WebhookSettings | None = None
    """Signed POST; null sends none."""
    mail: MailSettings | None = None
    """E-mail; null sends none."""
    away_minutes: float = Field(15.0, gt=0)
    """For which a destination may be away."""
    waiting_minutes: float = Field(15.0, gt=0)
    """For which the oldest image may wait for its answer."""
    free_bytes: int = Field(2 << 30, ge=0)
    """That may be left on the disk before it counts as nearly full."""
