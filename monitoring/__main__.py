"""`python -m monitoring`."""

from monitoring.cli import main

if __name__ == "__main__":
    main()
