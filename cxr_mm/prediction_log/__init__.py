"""Prediction log: the one place where app and monitoring meet, in any database SQLAlchemy knows."""

from cxr_mm.prediction_log.log import PredictionLog, open_log
from cxr_mm.prediction_log.secret import SECRET_VARIABLE, find_secret
from cxr_mm.prediction_log.spool import SpooledLog, open_spooled_log

__all__ = [
    "SECRET_VARIABLE",
    "PredictionLog",
    "SpooledLog",
    "find_secret",
    "open_log",
    "open_spooled_log",
]
