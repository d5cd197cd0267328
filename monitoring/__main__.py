"""`python -m monitoring`."""

import sys
from contextlib import nullcontext

from cxr_mm.core.allocator import without_collection
from cxr_mm.core.progress import heartbeat

WORKING = ("adopt", "backfill", "labels", "promote", "reference", "report", "retrain", "scenarios")
"""Verbs that work for seconds or more, and then end."""

if __name__ == "__main__":
    verb = next(iter(sys.argv[1:]), "")
    with heartbeat(f"monitoring {verb}") if verb in WORKING else nullcontext():
        with without_collection():
            from monitoring.cli import main  # slow to import

        main()
