"""Alerts: whoever has to know is told once, when the verdict changes, and told for certain."""

from monitoring.alerts.notice import Notice
from monitoring.alerts.tell import Alerts

__all__ = ["Alerts", "Notice"]
