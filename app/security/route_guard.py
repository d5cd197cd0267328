"""Route guard: which of Gradio's routes are open, and which files a request may name."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.security.auth import HEALTH, METRICS, SIGN_IN, SIGN_OUT
from app.security.middleware import API, UPLOAD, is_below, refuse

# What Gradio's page and its clients ask for, relative to the page; all other routes are closed.
ASSET = r"favicon\.ico|theme\.css|robots\.txt|manifest\.json|(?:assets|static|svelte)/.+"
READ = r"gradio_api/(?:info/?|app_id|startup-events|heartbeat/\w+|queue/data|upload_progress)"
CALL = r"call/(?:v2/)?\w+"
OPEN_PATHS = re.compile(rf"(?:|config/?|{ASSET}|{READ}|gradio_api/file=/.+|gradio_api/{CALL}/\w+)")
POSTED = re.compile(rf"gradio_api/(?:queue/join|run/predict|{CALL}|upload|cancel|reset)")


class Gate:
    """Opens only the routes that the page uses, and lets requests name only uploaded files.

    Args:
        pages: paths of the pages.
        others: paths besides, that can only be read.
        uploads: folder in which every file that a request names must lie.
        stores: paths, at or below which there can only be posted.
    """

    def __init__(
        self,
        app: ASGIApp,
        pages: Sequence[str],
        others: Sequence[str],
        uploads: Path,
        stores: Sequence[str] = (),
    ) -> None:
        self.app, self.others, self.uploads, self.stores = app, others, uploads, stores
        self.pages = sorted(pages, key=len, reverse=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif not self._is_open(scope["method"], scope["path"]):
            await refuse(scope, receive, send, 404, "Not found.")
        elif _posts_json(scope):
            await self._checked(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_open(self, method: str, path: str) -> bool:
        if path in (HEALTH, METRICS, "/", *self.others):
            return method in ("GET", "HEAD")
        if path in (SIGN_IN, SIGN_OUT):
            return method in ("GET", "POST")
        if ".." in path.split("/") or "\\" in path or "\0" in path:
            return False
        if is_below(path, self.stores):
            return method == "POST"
        mounted = next((p for p in self.pages if f"{path}/".startswith(f"{p.rstrip('/')}/")), None)
        if mounted is None:
            return False
        requested = path[len(mounted) :].lstrip("/")
        if "file=" in requested and not self._is_uploaded(requested.partition("file=")[2]):
            return False
        pattern = POSTED if method == "POST" else OPEN_PATHS
        return method in ("GET", "HEAD", "POST") and pattern.fullmatch(requested) is not None

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _whole(receive)
        try:
            named = list(_paths(json.loads(body)))
        except (ValueError, RecursionError):
            await refuse(scope, receive, send, 400, "This is no JSON.")
            return
        if not all(self._is_uploaded(path) for path in named):
            await refuse(scope, receive, send, 403, "Only an uploaded file can be named.")
            return
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    def _is_uploaded(self, path: object) -> bool:
        try:
            return Path(str(path)).resolve().is_relative_to(self.uploads)
        except (OSError, ValueError):
            return False


def _posts_json(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] == "POST" and API in path and not path.endswith(UPLOAD)


async def _whole(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _paths(body: object) -> Iterator[object]:
    """Every `path` in a JSON value: how Gradio's components name a file."""
    waiting = [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("path") is not None:
                yield value["path"]
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
