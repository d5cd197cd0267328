"""Middleware: origin, rate and size of a request, checked before it reaches a page.

Each class is an ASGI application around another (https://asgi.readthedocs.io/en/latest/specs).
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from math import ceil
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import Limits

KEYS = 10_000
API = "/gradio_api/"
UPLOAD = f"{API}upload"
FILE = f"{API}file="
REST = "/v1"
"""Below it stands what programs ask."""
CACHED = re.compile(r"(?:/[\w-]+)?/(?:(?:assets|static|svelte)/.+|favicon\.ico|theme\.css)")
FORWARDED = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-gradio-server",
)

# Gradio writes its configuration into inline scripts and makes functions of the page's own
# JavaScript, so its scripts cannot be bound to a nonce; that nothing comes from elsewhere can.
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
FILE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'self'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


class RefusalCounter(Protocol):
    """Counts refused requests by their reason."""

    def refuse(self, reason: str) -> None:
        """Count one refused request."""


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    text: str,
    wait: float = 0.0,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Answer with a status and one line; `wait` in seconds becomes Retry-After."""
    headers = {**headers, "Retry-After": str(ceil(wait))} if wait else headers
    await PlainTextResponse(f"{text}\n", status, headers)(scope, receive, send)


def address(scope: Scope) -> str:
    """Where a request came from; empty where that is unknown."""
    return scope["client"][0] if scope.get("client") else ""


def is_within(text: str, networks: tuple[str, ...]) -> bool:
    """Whether an address lies in one of the networks; what is no address lies in none."""
    try:
        found = ip_address(text)
    except ValueError:
        return False
    return any(found in ip_network(network) for network in networks)


def is_below(path: str, roots: Sequence[str]) -> bool:
    """Whether a path is one of these, or below one."""
    return any(f"{path}/".startswith(f"{root}/") for root in roots)


class SafeHeaders:
    """Adds security headers to every response, and keeps all but the assets out of caches."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                policy = FILE_POLICY if FILE in scope["path"] else PAGE_POLICY
                for name, value in {"Content-Security-Policy": policy, **HEADERS}.items():
                    headers.setdefault(name, value)
                if not CACHED.fullmatch(scope["path"]):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, with_headers)


class Proxy:
    """Trusts headers that a trusted proxy forwards, and removes them from any other request.

    Leaves in the scope `client` and `scheme` as the proxy saw them, `direct` (no one forwarded
    it), and the request's headers without those that name a user or an origin.
    """

    def __init__(self, app: ASGIApp, trusted: tuple[str, ...], user_header: str | None) -> None:
        self.app, self.trusted = app, trusted
        self.user_header = user_header.lower() if user_header else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            scope = {**scope, "direct": not any(name in headers for name in FORWARDED)}
            if is_within(address(scope), self.trusted):
                self._trust(scope, headers)
            dropped = {name.encode() for name in (*FORWARDED, self.user_header or "")}
            scope["headers"] = [(k, v) for k, v in scope["headers"] if k.lower() not in dropped]
        await self.app(scope, receive, send)

    def _trust(self, scope: Scope, headers: Headers) -> None:
        named = headers.getlist(self.user_header) if self.user_header else []
        if len(named) == 1 and named[0].strip():
            scope["user"] = named[0].strip()
        # The last address is the one that the proxy itself saw; those before it anyone can write.
        client = headers.get("x-forwarded-for", "").split(",")[-1].strip()
        if client:
            scope["client"] = (client, 0)
        if headers.get("x-forwarded-proto", "").strip() in ("http", "https"):
            scope["scheme"] = headers["x-forwarded-proto"].strip()


class SameSite:
    """Turns away requests from pages of other sites, also under a host name of their own.

    Args:
        hosts: names that a request may carry, against DNS rebinding; none means any.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...], refusals: RefusalCounter) -> None:
        self.app, self.hosts, self.refusals = app, hosts, refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            if self.hosts and _name(host) not in self.hosts:
                self.refusals.refuse("host")
                await refuse(scope, receive, send, 421, "This server has another name.")
                return
            if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
                self.refusals.refuse("origin")
                await refuse(scope, receive, send, 403, "Another site asked for this.")
                return
        await self.app(scope, receive, send)


def _name(host: str) -> str:
    """Name or address of a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class Buckets:
    """Token buckets, one a key: a minute's worth at once, and then as they fill up again.

    Args:
        clock: seconds, ever growing.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str) -> float:
        """Take a token: 0, or the seconds until there will be one."""
        now = self._clock()
        left, then = self._left.pop(key, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - then) * self.per_minute / 60)
        wait = 0.0 if left > 1 - 1e-9 else (1 - left) * 60 / self.per_minute
        self._left[key] = (left if wait else left - 1, now)
        if len(self._left) > KEYS:
            self._left.popitem(last=False)
        return wait


class Limited:
    """Refuses posts that come too often, too many at once, too large or too slowly.

    Args:
        uploads: paths, at or below which a post is an upload, besides Gradio's own.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        refusals: RefusalCounter,
        uploads: Sequence[str] = (),
    ) -> None:
        self.app, self.limits, self.refusals, self.uploads = app, limits, refusals, uploads
        self._requests = Buckets(limits.requests_per_minute)
        self._uploads = Buckets(limits.uploads_per_minute)
        self._uploading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        upload = scope["path"].endswith(UPLOAD) or is_below(scope["path"], self.uploads)
        buckets = self._uploads if upload else self._requests
        if wait := buckets.wait(scope.get("user") or address(scope)):
            self.refusals.refuse("rate")
            await refuse(scope, receive, send, 429, "Too many requests: wait a little.", wait)
        elif upload:
            await self._upload(scope, receive, send)
        else:
            await self._capped(scope, receive, send, self._most(scope["path"]))

    def _most(self, path: str) -> int:
        """Bytes of a post without a file."""
        from_program = API in path or is_below(path, [REST])
        return self.limits.request_bytes if from_program else self.limits.form_bytes

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = self.limits.upload_bytes
        if is_below(scope["path"], [REST]):  # one file, and what stands beside it
            most = self.limits.file_bytes + self.limits.request_bytes
        if self._uploading >= self.limits.uploads_at_once:
            self.refusals.refuse("uploads_at_once")
            text = "Too many uploads at once: wait a little."
            await refuse(scope, receive, send, 503, text, 5)
            return
        self._uploading += 1
        limit = asyncio.timeout(self.limits.upload_seconds)

        async def received() -> Message:
            message = await receive()
            if not message.get("more_body") and limit.when() is not None:
                limit.reschedule(None)  # it is complete: what is left is the answer
                self._uploading -= 1
            return message

        try:
            async with limit:
                await self._capped(scope, received, send, most)
        except TimeoutError:
            self.refusals.refuse("slow")
            await refuse(scope, receive, send, 408, "The upload took too long.")
        finally:
            self._uploading -= limit.when() is not None

    async def _capped(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        async def counted(message: Message) -> None:
            # Also where Gradio itself finds one file of several too large.
            if message["type"] == "http.response.start" and message["status"] == 413:
                self.refusals.refuse("size")
            await send(message)

        await RequestBodyLimitMiddleware(self.app, most)(scope, receive, counted)
