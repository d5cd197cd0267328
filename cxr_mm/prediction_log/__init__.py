"""Prediction log: the one place where app and monitoring meet, in any database SQLAlchemy knows."""

from cxr_mm.prediction_log.chain import Head
from cxr_mm.prediction_log.database import SECRET_VARIABLE, find_secret
from cxr_mm.prediction_log.erasure import (
    ErasurePlan,
    erase_patient,
    erase_study,
    retain,
)
from cxr_mm.prediction_log.log import PredictionLog, open_log
from cxr_mm.prediction_log.spool import SpooledLog, open_spooled_log, spool_folder
from cxr_mm.prediction_log.verify import ChainBreak, Verified, verify
from cxr_mm.prediction_log.windows import ServiceCount, WindowIndex

__all__ = [
    "SECRET_VARIABLE",
    "ChainBreak",
    "ErasurePlan",
    "Head",
    "PredictionLog",
    "ServiceCount",
    "SpooledLog",
    "Verified",
    "WindowIndex",
    "erase_patient",
    "erase_study",
    "find_secret",
    "open_log",
    "open_spooled_log",
    "retain",
    "spool_folder",
    "verify",
]
