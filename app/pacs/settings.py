"""Settings of the node: one YAML file of frozen, typed sections, checked before anything starts."""

import hashlib
import random
import ssl
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from app.pacs.sections.context import ContextSettings
from app.pacs.sections.fhir import FhirSettings
from app.pacs.sections.watch import MetricsSettings, NodeAlertSettings
from app.pacs.sections.web import WebService
from cxr_mm.core.errors import ParamsError
from cxr_mm.core.record import LONGEST_SITE
from cxr_mm.core.types import Frozen, faults_of

Kind = Literal["sr", "gsps", "sc", "seg", "pdf", "fhir"]
"""Objects that a destination may get: structured report, presentation state, secondary capture,
segmentation of the strongest region, case report; or all of it as FHIR."""
LONGEST_TITLE = 16
"""Characters of an AE title (DICOM PS3.5, VR AE)."""
PAGE = "page"
"""Name, in `from` of a rule, of what is stored through the page's server (STOW-RS)."""
MOST_DOUBLINGS = 32
"""Of a pause, before a float would overflow."""


def _title(text: str) -> str:
    plain = text.isascii() and text.isprintable() and "\\" not in text
    if not plain or not 0 < len(text.strip()) <= LONGEST_TITLE:
        raise ValueError(f"an AE title has 1 to {LONGEST_TITLE} ASCII characters, no backslash")
    return text.strip()


Title = Annotated[str, AfterValidator(_title)]
Port = Annotated[int, Field(ge=1, le=65535)]


class TlsSettings(Frozen):
    """Certificates of the node; a peer without a certificate of the authority is turned away."""

    certificate: Path
    """PEM file with the node's certificate chain."""
    key: Path
    """PEM file with its private key."""
    authority: Path
    """PEM file with the authority that signs the peers' certificates."""


class Peer(Frozen):
    """A system that sends to the node or is asked by it, and that answers may be sent to."""

    name: str = Field(min_length=1, max_length=64)
    """By which rules name it."""
    ae_title: Title | None = None
    """By which it calls, and is called; null for one that speaks DICOMweb alone."""
    host: str = ""
    """Name or address that answers are sent to; what calls from elsewhere is turned away where it
    is an address."""
    port: Port | None = None
    """That answers are sent to."""
    tls: bool = False
    """Send to it by TLS, with the node's certificate."""
    commitment: bool = False
    """Ask it for storage commitment: answers are kept until it reports that it keeps them. It must
    know the node's title, host and port."""
    web: WebService | None = None
    """Its DICOMweb service; null has none."""
    fhir: FhirSettings | None = None
    """Where it takes reports as FHIR; such a peer takes and gives nothing else."""

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.name == PAGE:
            raise ValueError(f"{PAGE!r} is what is stored through the page's server")
        dimse = [self.ae_title is not None, bool(self.host), self.port is not None]
        if any(dimse) != all(dimse):
            raise ValueError("a peer that speaks DIMSE needs ae_title, host and port")
        if self.fhir and (any(dimse) or self.web):
            raise ValueError("a peer with `fhir` has neither ae_title, host and port nor `web`")
        if not all(dimse) and self.web is None and self.fhir is None:
            raise ValueError("a peer needs ae_title, host and port, or `web`, or both; or `fhir`")
        if self.web and not self.web.send and not all(dimse):
            raise ValueError("answers are sent by C-STORE: name ae_title, host and port")
        if self.commitment and (self.sent_by_web or not all(dimse)):
            raise ValueError("storage commitment is of what is sent by C-STORE")
        return self

    @property
    def sent_by_web(self) -> bool:
        """Whether answers go by STOW-RS."""
        return self.web is not None and self.web.send


class Destination(Frozen):
    """Where the answers of a rule go, and which of them."""

    peer: str
    """Name of a peer."""
    objects: tuple[Kind, ...] = Field(("sr", "gsps", "sc"), min_length=1)
    """What it gets; `[fhir]` where it takes FHIR."""


class Rule(Frozen):
    """Images that a model answers, or that are refused; an empty list takes any."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    senders: tuple[str, ...] = Field((), alias="from")
    """Names of the peers that it came from, or `page`; `from` in the file."""
    modality: tuple[str, ...] = ()
    """Of the header, as CR and DX."""
    body_part: tuple[str, ...] = ()
    """Body part examined, as CHEST."""
    view: tuple[str, ...] = ()
    """View position, as PA and AP. A rule that names none takes no lateral image."""
    description: str = "*"
    """Pattern (`*`, `?`) of the series or study description, in any case."""
    bundle: Path | None = None
    """Folder of a bundle, or a `current.json`, that answers."""
    refuse: str = ""
    """Why images of this kind get no answer."""
    destinations: tuple[Destination, ...] = ()
    """Where answers go."""
    not_analysed: Literal["sr", "none"] = "sr"
    """Whether a report says why an image was not analysed."""
    answer_again: bool = False
    """Answer again, in a new version, when clinical context arrives after the answer."""

    @model_validator(mode="after")
    def _answers_or_refuses(self) -> Self:
        if (self.bundle is None) == (not self.refuse):
            raise ValueError("a rule has either a bundle or a reason to refuse")
        if self.bundle is not None and not self.destinations:
            raise ValueError("a rule with a bundle needs a destination for its answers")
        if self.answer_again and self.bundle is None:
            raise ValueError("a rule that answers nothing cannot answer again")
        return self

    def describes(self, *texts: str) -> bool:
        """Whether one of these descriptions fits the pattern."""
        return any(fnmatchcase(text.lower(), self.description.lower()) for text in texts or ("",))


class LimitSettings(Frozen):
    """Bounds on what peers may ask of the node, and on what is tried again."""

    associations: int = Field(16, ge=1, le=256)
    """Open at once; more are turned away for the time being."""
    object_bytes: int = Field(64 << 20, ge=1 << 16)
    """Of one object; a larger one is refused, and one of twice that size cut off."""
    pdu_bytes: int = Field(128 << 10, ge=4 << 10, le=1 << 20)
    """Largest protocol data unit."""
    idle_seconds: float = Field(30.0, gt=0)
    """Without a message, or for one unit to arrive, after which an association is ended."""
    free_bytes: int = Field(256 << 20, ge=0)
    """Left on the disk; below that nothing is taken in."""
    answer_attempts: int = Field(3, ge=1)
    """Of one image, after which it has failed."""
    interruptions: int = Field(10, ge=1)
    """Times that the node may end while it answers one image, after which that has failed."""
    send_attempts: int = Field(300, ge=1)
    """Of one object, after which it is dead: with the pauses below, about a day."""
    report_seconds: float = Field(120.0, gt=0)
    """For a report of storage commitment, after which an object is sent again; at most
    `longest_pause`."""
    shortest_pause: float = Field(2.0, gt=0)
    """Seconds before the first repeat; doubled with each."""
    longest_pause: float = Field(300.0, gt=0)
    """Seconds that a pause grows to."""

    def pause(self, attempts: int) -> float:
        """Seconds before the attempt after so many: between half and all of the doubled pause, so
        that what failed together is not tried again together."""
        doubled = self.shortest_pause * 2.0 ** min(attempts - 1, MOST_DOUBLINGS)
        return min(self.longest_pause, doubled) * random.uniform(0.5, 1.0)


class QueueRetention(Frozen):
    """How long the node keeps what it no longer needs."""

    file_hours: float = Field(0.0, ge=0)
    """Image and answers on disk, after the last answer was delivered; 0 deletes them then."""
    identifier_days: float = Field(7.0, ge=0)
    """UIDs in the queue, after that; a digest of the SOP instance UID stays, to know repeats."""
    longest_days: float = Field(30.0, gt=0)
    """Anything that could not be answered or delivered."""


class NodeSettings(Frozen):
    """Contents of the node's file."""

    ae_title: Title = "CXRMM"
    """Of the node."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 11112
    """To listen on."""
    tls: TlsSettings | None = None
    """Certificates; null speaks in the clear, on the loopback or with `clear_text`."""
    clear_text: bool = False
    """Listen without TLS on an address that other machines reach: the network alone protects it."""
    storage: Path
    """Folder for images and answers that wait; for the node's user alone."""
    queue: str = ""
    """SQLAlchemy URL of the queue; empty for `queue.db` in the storage."""
    log: str | None = "sqlite:///logs/predictions.db"
    """SQLAlchemy URL of the prediction log; null keeps none."""
    site: str = Field("", max_length=LONGEST_SITE)
    """Name of the hospital in the records of the log; empty where one alone writes there."""
    workers: int = Field(2, ge=1, le=64)
    """Processes that answer, each with every model in its memory."""
    peers: tuple[Peer, ...] = Field(min_length=1)
    """Every system that the node speaks with."""
    rules: tuple[Rule, ...] = Field(min_length=1)
    """Asked in order: the first that fits decides."""
    metrics: MetricsSettings | None = None
    """Figures for Prometheus; null serves none."""
    alerts: NodeAlertSettings = NodeAlertSettings()
    limits: LimitSettings = LimitSettings()
    retention: QueueRetention = QueueRetention()
    context: ContextSettings | None = None

    @model_validator(mode="after")
    def _names_known(self) -> Self:
        for field in ("name", "ae_title"):
            values = [v for peer in self.peers if (v := getattr(peer, field)) is not None]
            if twice := next((v for v in values if values.count(v) > 1), None):
                raise ValueError(f"two peers have the {field} {twice!r}")
        known = {peer.name for peer in self.peers}
        for number, rule in enumerate(self.rules):
            named = {*rule.senders, *(d.peer for d in rule.destinations)} - {PAGE}
            if any(d.peer == PAGE for d in rule.destinations):
                raise ValueError(f"rule {number + 1}: the page is no destination")
            if unknown := sorted(named - known):
                raise ValueError(f"rule {number + 1} names no peer {unknown[0]!r}")
        return self

    @model_validator(mode="after")
    def _kinds_taken(self) -> Self:
        for peer in self.peers:
            kinds = self.kinds_for(peer.name)
            if peer.fhir and kinds and kinds != ("fhir",):
                raise ValueError(f"{peer.name!r} takes FHIR: write `objects: [fhir]`")
            if not peer.fhir and "fhir" in kinds:
                raise ValueError(f"{peer.name!r} has no `fhir`, so that it takes none")
        return self

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if self.tls is None and any(peer.tls for peer in self.peers):
            raise ValueError("a peer is sent to by TLS, but `tls` names no certificate")
        self._context_is_protected()
        if self.tls is None and not self.clear_text and not _is_loopback(self.host):
            raise ValueError(
                f"{self.host} can be reached from other machines: name certificates in `tls`, or "
                "set `clear_text: true` where the network protects it"
            )
        return self

    def _context_is_protected(self) -> None:
        listener = self.context.mllp if self.context else None
        if self.context is None and any(rule.answer_again for rule in self.rules):
            raise ValueError("a rule answers again, but there is no `context`")
        if listener is None:
            return
        if listener.tls and self.tls is None:
            raise ValueError("context.mllp listens by TLS, but `tls` names no certificate")
        if not (listener.tls or self.clear_text or _is_loopback(listener.host)):
            raise ValueError(
                f"context.mllp: {listener.host} can be reached from other machines: set `tls` "
                "there, or `clear_text: true` where the network protects it"
            )

    @property
    def queue_url(self) -> str:
        """SQLAlchemy URL of the queue."""
        return self.queue or f"sqlite:///{self.storage.absolute() / 'queue.db'}"

    @property
    def configuration(self) -> str:
        """Digest of the rules and the title of the node (sha256, hexadecimal)."""
        text = self.model_dump_json(include={"ae_title", "rules"})
        return hashlib.sha256(text.encode()).hexdigest()

    def peer(self, name: str) -> Peer:
        """The peer of a name that a rule has."""
        return next(peer for peer in self.peers if peer.name == name)

    def caller(self, ae_title: str) -> Peer | None:
        """The peer that calls by an AE title; None for a stranger."""
        return next((peer for peer in self.peers if peer.ae_title == ae_title.strip()), None)

    def kinds_for(self, name: str) -> tuple[Kind, ...]:
        """What rules send to a peer, each kind once."""
        sent = (d.objects for rule in self.rules for d in rule.destinations if d.peer == name)
        return tuple(dict.fromkeys(kind for objects in sent for kind in objects))

    @property
    def bundles(self) -> tuple[Path, ...]:
        """Every bundle that a rule names, once."""
        return tuple(dict.fromkeys(rule.bundle for rule in self.rules if rule.bundle is not None))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_node_settings(path: Path) -> NodeSettings:
    """Read and check the node's file; relative paths in it start at its folder.

    Raises:
        ParamsError: it is missing, is not YAML, a setting is unknown or out of range, or a
            certificate or bundle is missing.
    """
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings = NodeSettings.model_validate(raw)
    except OSError as error:
        raise ParamsError(
            f"cannot be read ({error.strerror})", field=str(path), remedy="Name the node's file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(
            f"not YAML: {error}", field=str(path), remedy="Compare it with docs/pacs.md"
        ) from error
    except ValidationError as error:
        field, message = faults_of(error, NodeSettings)
        raise ParamsError(
            message, field=f"{path}: {field}", remedy="Every setting is in docs/reference"
        ) from error
    settings = _rooted(settings, path.parent)
    _check_files(settings, path)
    return settings


def _rooted(settings: NodeSettings, root: Path) -> NodeSettings:
    """The settings with absolute paths."""
    rules = tuple(
        rule.model_copy(update={"bundle": root / rule.bundle}) if rule.bundle else rule
        for rule in settings.rules
    )
    tls = settings.tls and TlsSettings(**{k: root / v for k, v in settings.tls})
    peers = tuple(
        peer.model_copy(
            update={
                "web": peer.web and peer.web.below(root),
                "fhir": peer.fhir and peer.fhir.below(root),
            }
        )
        for peer in settings.peers
    )
    changed = {"storage": root / settings.storage, "rules": rules, "tls": tls, "peers": peers}
    changed["context"] = settings.context and settings.context.below(root)
    return settings.model_copy(update=changed)


def _check_files(settings: NodeSettings, path: Path) -> None:
    for bundle in settings.bundles:
        if not bundle.exists():
            raise ParamsError(
                f"no such bundle: {bundle}",
                field=f"{path}: rules.bundle",
                remedy="Name the folder of a bundle, or a current.json",
            )
    if settings.tls:
        listening_context(settings.tls)
    for peer in settings.peers:
        service = peer.web or (peer.fhir and peer.fhir.server)
        if service:
            service.secret()
            service.verification()
    for folder in settings.context.folders if settings.context else ():
        if not folder.path.is_dir():
            raise ParamsError(
                f"no such folder: {folder.path}",
                field=f"{path}: context.folders.path",
                remedy="Make it, for the node's user and those who write there",
            )
    for server in settings.context.fhir_servers if settings.context else ():
        server.secret()
        server.verification()


def listening_context(
    tls: TlsSettings, kind: type[ssl.SSLContext] = ssl.SSLContext
) -> ssl.SSLContext:
    """TLS of a server that demands a certificate of the authority.

    Raises:
        ParamsError: a file is missing, is no PEM, or key and certificate do not belong together.
    """
    return _completed(kind(ssl.PROTOCOL_TLS_SERVER), tls)


def calling_context(tls: TlsSettings) -> ssl.SSLContext:
    """TLS of a client that shows its certificate, and checks the server's by the authority.

    Raises:
        ParamsError: as `listening_context`.
    """
    return _completed(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)


def _completed(context: ssl.SSLContext, tls: TlsSettings) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        context.load_verify_locations(tls.authority)
    except OSError as error:
        raise ParamsError(
            f"certificates cannot be used ({error.strerror or error})",
            field="tls",
            remedy="Name PEM files: the chain, its private key and the authority",
        ) from error
    return context
