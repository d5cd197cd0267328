"""`python -m cxr_mm`: the command line without its script."""

from cxr_mm.cli import main

main()
