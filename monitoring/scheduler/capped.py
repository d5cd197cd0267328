"""Capped: a command with a limit on its memory, that ends when its parent does (Linux).

`python -m monitoring.scheduler.capped MIB PARENT -- COMMAND …`; limits are set here, in the child,
for code between fork and exec is not safe beside threads.
"""

import os
import resource
import sys

from cxr_mm.core.processes import end_with_parent


def main() -> None:
    """Set the limits, then become the command."""
    mib, parent, _, *command = sys.argv[1:]
    end_with_parent()
    if os.getppid() != int(parent):
        sys.exit("the parent has ended")  # before it could be tied to it
    most = int(mib) << 20
    # The data segment, not the address space: libraries reserve far more of that than they use.
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
