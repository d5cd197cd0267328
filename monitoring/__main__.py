"""`python -m monitoring`."""

import sys

from cxr_mm.core.progress import announce

if __name__ == "__main__":
    announce(f"monitoring {' '.join(sys.argv[1:2])}: loading")
    from monitoring.cli import main  # slow to import

    main()
