"""Sign-in: signed sessions, wrong passwords throttle down, and a page of its own.

`python -m app.security.auth FILE NAME` adds a user to the file, or gives a user another password.
"""

import asyncio
import base64
import hashlib
import hmac
import os
import re
import secrets
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote

import typer
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.security.middleware import RefusalCounter, address, is_below, is_within, refuse
from cxr_mm.core.errors import InputError, ParamsError
from cxr_mm.core.processes import errors_as_one_line
from cxr_mm.core.templates import render

HASHER = PasswordHasher()
"""Argon2id at argon2-cffi's defaults (RFC 9106, low memory): about 0.05 seconds and 64 MiB."""
SHORTEST = 12
NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
STORED = re.compile(r"\$argon2id\$v=\d+\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")


def hashed(password: str) -> str:
    """A password as the users file keeps it.

    Raises:
        InputError: it is shorter than 12 characters.
    """
    if len(password) < SHORTEST:
        raise InputError(
            f"the password has fewer than {SHORTEST} characters", remedy="Choose a longer one"
        )
    return HASHER.hash(_bytes(password))


def matches(password: str, stored: str) -> bool:
    """Whether this is the password that was stored, compared in constant time."""
    try:
        return HASHER.verify(stored, _bytes(password))
    except (VerificationError, InvalidHashError):
        return False


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


@cache
def dummy_hash() -> str:
    """What a password is compared with where there is no such user, so that it takes as long."""
    return HASHER.hash(secrets.token_bytes(16))


class Users:
    """The users of a file, read again whenever it changes.

    Raises:
        ParamsError: the file cannot be read, or a line is not `name:$argon2id$…`.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, -1
        self._stored: dict[str, str] = {}
        self.stored("")

    def stored(self, name: str) -> str | None:
        """The stored password of a user; None where there is no such user."""
        try:
            changed = self._file.stat().st_mtime_ns
            if changed != self._read:
                self._stored = read_users(self._file)
                self._read = changed
        except OSError as error:
            raise ParamsError(
                error.strerror or str(error),
                field=str(self._file),
                remedy="Make it with python -m app.security.auth FILE NAME",
            ) from error
        return self._stored.get(name)


def read_users(file: Path) -> dict[str, str]:
    """Name → stored password.

    Raises:
        ParamsError: a line is not `name:$argon2id$…`.
        OSError: the file cannot be read.
    """
    users = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, stored = line.strip().partition(":")
        if not name:
            continue
        if not NAME.fullmatch(name) or not STORED.fullmatch(stored):
            raise ParamsError(
                f"line {number} is not name:$argon2id$…",
                field=str(file),
                remedy="Make its lines with python -m app.security.auth",
            )
        users[name] = stored
    return users


def add_user(file: Path, name: str, password: str) -> None:
    """Add a user to the file or change the password; only the owner can read the file.

    Raises:
        InputError: the name has other than letters, digits and `._@-`, or the password is short.
        ParamsError: the file there is no users file.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            "a name has 1 to 64 letters, digits and ._@-", field=name, remedy="Choose another"
        )
    users = read_users(file) if file.exists() else {}
    users[name] = hashed(password)
    # Made readable for its owner only, from the first byte on.
    handle, aside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.writelines(f"{each}:{stored}\n" for each, stored in users.items())
        Path(aside).replace(file)
    finally:
        Path(aside).unlink(missing_ok=True)


SIGN_IN, SIGN_OUT, HEALTH, METRICS = "/sign-in", "/sign-out", "/healthz", "/metrics"
SESSION_SECONDS = 12 * 3600
SESSION, FORM = "cxr_mm_session", "cxr_mm_form"
FREE_ATTEMPTS, LONGEST_WAIT = 5, 60.0
PASSWORDS_KNOWN = 1000
LOOPBACKS = ("127.0.0.0/8", "::1/128")
CHALLENGE = {"WWW-Authenticate": 'Basic realm="cxr_mm", charset="UTF-8"'}
LOCAL = re.compile(r"/(?![/\\])[^\\\s]*")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


class LoginThrottle:
    """Wrong passwords by name and by address: after five, each doubles the wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, *keys: str) -> float:
        """Seconds until any of these may be tried again; 0 is now."""
        now = self._clock()
        return max(0.0, *(self._wrong.get(key, (0, now))[1] - now for key in keys))

    def wrong(self, *keys: str) -> None:
        """Count a wrong password, of this name and from this address."""
        for key in keys:
            count = self._wrong.pop(key, (0, 0.0))[0] + 1
            wait = min(LONGEST_WAIT, 2.0 ** min(count - FREE_ATTEMPTS, 16)) * (
                count > FREE_ATTEMPTS
            )
            self._wrong[key] = (count, self._clock() + wait)
        while len(self._wrong) > 10_000:
            self._wrong.popitem(last=False)

    def right(self, *keys: str) -> None:
        """Forget earlier wrong passwords."""
        for key in keys:
            self._wrong.pop(key, None)


class Passwords:
    """Tells right passwords from wrong ones, which throttle down, whichever way they come."""

    def __init__(self, users: Users) -> None:
        self._users, self._throttle = users, LoginThrottle()
        self._turns, self._dummy = asyncio.Semaphore(2), dummy_hash()
        self._key, self._right = secrets.token_bytes(32), OrderedDict[bytes, None]()

    def wait(self, name: str, address: str) -> float:
        """Seconds until a password of this name may be tried from this address; 0 is now."""
        return self._throttle.wait(*self._keys(name, address))

    async def are_right(self, name: str, password: str, address: str) -> bool:
        """Whether this is the user's password; a wrong one is counted.

        One that was right is known again at once, until the file has another for the user.
        """
        stored = self._users.stored(name)
        known = hmac.digest(self._key, f"{name}|{stored}|".encode() + _bytes(password), "sha256")
        if known in self._right:
            return True
        async with self._turns:
            right = await asyncio.to_thread(matches, password, stored or self._dummy)
        if stored is None or not right:
            self._throttle.wrong(*self._keys(name, address))
            return False
        self._throttle.right(*self._keys(name, address))
        self._right[known] = None
        if len(self._right) > PASSWORDS_KNOWN:
            self._right.popitem(last=False)
        return True

    @staticmethod
    def _keys(name: str, address: str) -> tuple[str, str]:
        return f"name {name[:64]}", f"address {address}"


@dataclass(frozen=True)
class SharedSessions:
    """What the processes of one server know in common of its sessions; it lives as long as they do.

    Args:
        key: signs the cookies.
        ended: folder with an empty file for each session that was signed out before its time.
    """

    key: bytes
    ended: Path

    @classmethod
    def begun(cls, folder: Path) -> Self:
        """Of a server that begins, which keeps its own things in this folder."""
        ended = folder / "signed-out"
        ended.mkdir()
        return cls(secrets.token_bytes(32), ended)

    def end(self, cookie: str, now: float) -> None:
        """Take note that a session has ended, and forget those that would be too old by now."""
        for file in self.ended.iterdir():
            if file.stat().st_mtime + SESSION_SECONDS < now:
                file.unlink(missing_ok=True)
        file = self._file(cookie)
        file.touch()
        os.utime(file, (now, now))

    def has_ended(self, cookie: str) -> bool:
        """Whether any process has ended the session."""
        return self._file(cookie).exists()

    def _file(self, cookie: str) -> Path:
        return self.ended / hashlib.sha256(cookie.encode()).hexdigest()


class Sessions:
    """Who has signed in, in a cookie signed with a key that lives as long as the server."""

    def __init__(
        self, users: Users, shared: SharedSessions, clock: Callable[[], float] = time.time
    ) -> None:
        self.users, self._shared, self._clock = users, shared, clock
        self.passwords = Passwords(users)

    def issue(self, name: str) -> str:
        """A cookie for this user; a changed password ends it."""
        until = self._clock() + SESSION_SECONDS
        result = f"{name}|{until:.0f}|{secrets.token_hex(8)}"
        return f"{result}|{self._sign(result, self.users.stored(name) or '')}"

    def user(self, cookie: str) -> str | None:
        """The user of a cookie; None where it is false, too old, or has ended."""
        result, _, signature = cookie.rpartition("|")
        name, _, rest = result.partition("|")
        stored = self.users.stored(name)
        if stored is None or not hmac.compare_digest(
            self._sign(result, stored).encode(), signature.encode()
        ):
            return None
        old = float(rest.partition("|")[0]) <= self._clock()
        return None if old or self._shared.has_ended(cookie) else name

    def end(self, cookie: str) -> None:
        """End one session before its time."""
        if self.user(cookie):
            self._shared.end(cookie, self._clock())

    def _sign(self, payload: str, stored: str) -> str:
        return hmac.new(
            self._shared.key, f"{payload}|{stored}".encode(), hashlib.sha256
        ).hexdigest()


class SignIn:
    """Lets unknown users reach nothing but the sign-in page and the health check.

    Args:
        sessions: None where a trusted proxy names the user.
        refusals: counts wrong passwords.
        programs: paths, at and below which a program may send name and password with each request
            (HTTP Basic, RFC 7617).
    """

    def __init__(
        self,
        app: ASGIApp,
        sessions: Sessions | None,
        refusals: RefusalCounter,
        programs: Sequence[str] = (),
    ) -> None:
        self.app, self.sessions, self.refusals = app, sessions, refusals
        self.programs = programs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._known(scope) or self._open(scope):
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif self.sessions and is_below(scope["path"], self.programs):
            await self._ask_program(self.sessions.passwords, scope, receive, send)
        elif self.sessions and _navigates(scope):
            destination = f"{SIGN_IN}?next={quote(scope['path'], safe='/')}"
            await RedirectResponse(destination, 303)(scope, receive, send)
        else:
            await refuse(scope, receive, send, 401, "Sign in first.")

    async def _ask_program(
        self, passwords: Passwords, scope: Scope, receive: Receive, send: Send
    ) -> None:
        name, password = _basic(Headers(scope=scope).get("authorization", ""))
        if wait := passwords.wait(name, address(scope)):
            await refuse(scope, receive, send, 429, "Too many wrong passwords.", wait)
        elif name and await passwords.are_right(name, password, address(scope)):
            scope["user"] = name
            await self.app(scope, receive, send)
        else:
            if name:
                self.refusals.refuse("password")
            text = "Send name and password (HTTP Basic), or sign in first."
            await refuse(scope, receive, send, 401, text, headers=CHALLENGE)

    def _known(self, scope: Scope) -> bool:
        if self.sessions:
            cookie = Request(scope).cookies.get(SESSION, "")
            scope["user"] = self.sessions.user(cookie)
        return bool(scope.get("user"))

    def _open(self, scope: Scope) -> bool:
        path = scope.get("path")
        if path == METRICS:
            return bool(scope.get("direct")) and is_within(address(scope), LOOPBACKS)
        return path == HEALTH or (self.sessions is not None and path == SIGN_IN)


def _basic(header: str) -> tuple[str, str]:
    """Name and password of an Authorization header; empty where it has none."""
    kind, _, coded = header.partition(" ")
    try:
        text = base64.b64decode(coded.strip(), validate=True).decode()
    except ValueError:
        return "", ""
    name, _, password = text.partition(":")
    return (name, password) if kind.lower() == "basic" else ("", "")


def _navigates(scope: Scope) -> bool:
    return scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")


def plain_page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template that needs no script and nothing from elsewhere."""
    # A form whose page sends no referrer at all says that it comes from the origin "null".
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
    return HTMLResponse(render(template, **values), status, headers)


def routes(sessions: Sessions, refusals: RefusalCounter) -> APIRouter:
    """The pages to sign in and out."""
    router, passwords = APIRouter(), sessions.passwords

    @router.get(SIGN_IN)
    def ask(request: Request) -> Response:
        return _form(request, _local(request.query_params.get("next")))

    @router.post(SIGN_IN)
    async def answer(request: Request) -> Response:
        form = {k: v for k, v in (await request.form()).items() if isinstance(v, str)}
        name, destination = form.get("name", "").strip(), _local(form.get("next"))
        token = request.cookies.get(FORM, "")
        if not token or not hmac.compare_digest(token.encode(), form.get("form", "").encode()):
            return _form(request, destination, "This form is too old. Please try again.", 403)
        origin = address(request.scope)
        if wait := passwords.wait(name, origin):
            fault = f"Too many wrong passwords. Please wait {wait:.0f} seconds."
            return _form(request, destination, fault, 429)
        if not await passwords.are_right(name, form.get("password", ""), origin):
            refusals.refuse("password")
            return _form(request, destination, "Name or password is wrong.", 401)
        response = RedirectResponse(destination, 303)
        _keep(request, response, SESSION, sessions.issue(name), SESSION_SECONDS)
        response.delete_cookie(FORM, path=SIGN_IN)
        return response

    @router.get(SIGN_OUT)
    def ask_out() -> Response:
        return plain_page("sign_out.html", title="Sign out", action=SIGN_OUT)

    @router.post(SIGN_OUT)
    def out(request: Request) -> Response:
        sessions.end(request.cookies.get(SESSION, ""))
        response = RedirectResponse(SIGN_IN, 303)
        response.delete_cookie(SESSION)
        return response

    return router


def _form(request: Request, destination: str, fault: str = "", status: int = 200) -> Response:
    token = secrets.token_urlsafe(16)
    response = plain_page(
        "sign_in.html",
        status,
        title="Sign in",
        action=SIGN_IN,
        token=token,
        destination=destination,
        fault=fault,
    )
    _keep(request, response, FORM, token, 3600, SIGN_IN)
    return response


def _keep(
    request: Request, response: Response, name: str, value: str, seconds: int, path: str = "/"
) -> None:
    secure = request.url.scheme == "https"
    response.set_cookie(
        name, value, seconds, path=path, secure=secure, httponly=True, samesite="lax"
    )


def _local(target: object) -> str:
    """A path of this server; anything else becomes the first page."""
    return target if isinstance(target, str) and LOCAL.fullmatch(target) else "/"


def main(
    file: Annotated[Path, typer.Argument(help="The users file; made where it is not there.")],
    name: Annotated[str, typer.Argument(help="Name of the user.")],
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the password as a line.")] = False,
) -> None:
    """Add a user to the file, or give a user another password."""
    with errors_as_one_line():
        if stdin:
            password = sys.stdin.readline().rstrip("\r\n")
        else:
            password = getpass(f"Password of {name}: ")
            if getpass("Once more: ") != password:
                raise InputError("the two passwords differ", remedy="Try again")
        add_user(file, name, password)


if __name__ == "__main__":
    cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    cli.command()(main)
    cli()
