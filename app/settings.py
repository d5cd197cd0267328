"""Settings: what the server was asked to do, checked before anything is loaded."""

from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from cxr_mm.core.errors import ParamsError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY_HOST = "*"
LAST_PORT = 65535
MAX_BATCH = 8
"""Above which a study costs no less."""
DEFAULT_LOG = "sqlite:///logs/predictions.db"


@dataclass(frozen=True)
class Limits:
    """Limits of one user, or of one address where no one signs in."""

    requests_per_minute: int = 600
    """Posts to a page; a prediction with its explanation makes about fifteen."""
    uploads_per_minute: int = 60
    """Uploads, each of one or several files."""
    uploads_at_once: int = 32
    """Of all users together."""
    file_bytes: int = 64 << 20
    """Of one file."""
    upload_bytes: int = 512 << 20
    """Of one upload, which may hold several files."""
    request_bytes: int = 4 << 20
    """Of a post without a file."""
    form_bytes: int = 16 << 10
    """Of the sign-in form."""
    upload_seconds: float = 300.0
    """Until an upload is complete."""


@dataclass(frozen=True)
class Settings:
    """What is served, where, and to whom.

    Args:
        bundles: folders, each of which gets a page.
        log: SQLAlchemy URL of the prediction log; None keeps none.
        site: name under which its records are in the log; empty where one site writes there.
        spool: folder in which predictions wait while the database is away; None for one beside it.
        examples: folder with manifest.csv whose studies fill the form of the first page.
        users: file of the users who may sign in.
        user_header: request header in which a trusted proxy names the user.
        trusted_proxies: addresses or networks whose forwarded headers are trusted.
        allowed_hosts: names that a request's Host may carry, besides those of the loopback; `*`
            accepts any.
        node: file of the node beside the PACS (docs/pacs.md): its queue is shown (Inbox), and gets
            what is stored by STOW-RS; None for neither.
        max_batch: studies that one forward pass predicts, where several wait for the model; 1 for
            each by itself.
        processes: servers of the same pages, on the ports from `port` on.
        root: folder of the project, where monitoring and evaluate leave their reports.

    Raises:
        ParamsError: others can reach the page and need not sign in, or the server's names are not
            given; two ways to sign in are named; there are too few ports; or a trusted proxy is no
            address.
    """

    bundles: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 7860
    log: str | None = DEFAULT_LOG
    site: str = ""
    spool: Path | None = None
    examples: Path | None = None
    users: Path | None = None
    user_header: str | None = None
    trusted_proxies: tuple[str, ...] = ("127.0.0.1",)
    allowed_hosts: tuple[str, ...] = ()
    root: Path = Path()
    limits: Limits = field(default_factory=Limits)
    node: Path | None = None
    max_batch: int = MAX_BATCH
    processes: int = 1

    def __post_init__(self) -> None:
        if not self.on_loopback and not self.demands_sign_in:
            raise ParamsError(
                f"{self.host} can be reached from other machines, and no one would have to sign in",
                field="--host",
                remedy="Name a users file with --users (python -m app.security.auth makes one), "
                "or the header of a proxy that asks for a sign-in with --user-header",
            )
        if not self.on_loopback and not self.allowed_hosts:
            raise ParamsError(
                f"{self.host} can be reached from other machines under any name, also one that "
                "another site points at it (DNS rebinding)",
                field="--allowed-host",
                remedy="Name the host that users type, as --allowed-host cxr.example.org; "
                "--allowed-host '*' accepts any",
            )
        if self.users and self.user_header:
            raise ParamsError(
                "there are two ways to sign in",
                field="--user-header",
                remedy="Give either --users or --user-header",
            )
        if self.port + self.processes - 1 > LAST_PORT:
            raise ParamsError(
                f"there are no {self.processes} ports from {self.port} on",
                field="--processes",
                remedy="Choose a lower --port",
            )
        for proxy in self.trusted_proxies:
            _check_network(proxy)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK

    @property
    def demands_sign_in(self) -> bool:
        """Whether a user has to be known."""
        return self.users is not None or self.user_header is not None

    @property
    def known_hosts(self) -> tuple[str, ...]:
        """Names that a request may carry as its host; none means any."""
        if ANY_HOST in self.allowed_hosts:
            return ()
        return (*LOOPBACK, *(name.lower() for name in self.allowed_hosts))


def _check_network(text: str) -> None:
    try:
        ip_network(text)
    except ValueError as error:
        raise ParamsError(
            str(error), field="--trusted-proxy", remedy="Write it as 10.0.0.5 or 10.0.0.0/24"
        ) from error
