"""Alerts: one message when the verdict changes, retried until it is delivered."""

from monitoring.alerts.deliver import Alerts
from monitoring.alerts.notice import Notice

__all__ = ["Alerts", "Notice"]
