"""`python -m cxr_mm.cli`: the command line without its script."""

from cxr_mm.cli import main

main()
