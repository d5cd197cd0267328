"""A Space of Hugging Face: the page on the bundle beside this file.

`python app.py` starts it on this machine too. On a Space people sign in as `demo` with
the secret `DEMO_PASSWORD`; nothing is logged.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = [sys.executable, "-P"]  # -P: this file must not hide the package `app`
WORDS = ["--bundle", str(HERE / "bundle"), "--no-log", "--port", os.environ.get("PORT", "7860")]


def main() -> None:
    """Become the page's process."""
    host = os.environ.get("SPACE_HOST")
    words = [*WORDS, *(_for_others(host) if host else [])]
    os.execv(PYTHON[0], [*PYTHON, "-m", "app", *words])


def _for_others(host: str) -> list[str]:
    """Options of a page that others reach under a name, with the one user that may."""
    users, password = HERE / "users.txt", os.environ["DEMO_PASSWORD"]
    command = [*PYTHON, "-m", "app.security.auth", str(users), "demo", "--stdin"]
    subprocess.run(command, input=password, text=True, check=True)
    return ["--host", "0.0.0.0", "--allowed-host", host, "--users", str(users)]


if __name__ == "__main__":
    main()
