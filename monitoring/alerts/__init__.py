"""Alerts: whoever has to know is told once, when the verdict changes, and told for certain."""

from monitoring.alerts.deliver import Alerts
from monitoring.alerts.notice import Notice

__all__ = ["Alerts", "Notice"]
