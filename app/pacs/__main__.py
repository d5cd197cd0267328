"""`python -m app.pacs`: the node's commands without the script."""

from app.pacs.commands import commands
from cxr_mm.core.processes import errors_as_one_line

with errors_as_one_line():
    commands()
