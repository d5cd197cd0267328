"""Problems: what is wrong with a request, as JSON (RFC 9457) with its field and its remedy."""

from http import HTTPStatus
from typing import Any

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.security.middleware import REST, is_below
from cxr_mm.core.errors import CxrError, InputError, LogError
from cxr_mm.core.types import Frozen

PROBLEM = "application/problem+json"
RETRY_SECONDS = 5


class Problem(Frozen, use_attribute_docstrings=True):
    """Why a request has no answer."""

    type: str = "about:blank"
    title: str
    """Of the status."""
    status: int
    detail: str
    """What is wrong, one sentence."""
    field: str | None = None
    """The input at fault."""
    remedy: str | None = None
    """What to do."""


class BusyError(Exception):
    """More requests wait for the model than may."""


def problem(
    status: int,
    detail: str,
    *,
    field: str = "",
    remedy: str = "",
    headers: dict[str, str] | None = None,
) -> Response:
    """An answer that says what is wrong."""
    content = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        field=field or None,
        remedy=remedy or None,
    )
    return JSONResponse(content.model_dump(exclude_none=True), status, headers, PROBLEM)


def of_error(_: Request, error: Exception) -> Response:
    """Answer an error: of the input 422, where nothing can be stored or asked now 503."""
    retry = {"Retry-After": str(RETRY_SECONDS)}
    match error:
        case InputError():
            return problem(422, error.message, field=error.field, remedy=error.remedy)
        case LogError():
            return problem(
                503, error.message, field=error.field, remedy=error.remedy, headers=retry
            )
        case BusyError():
            return problem(503, "Too many requests wait for the model", headers=retry)
        case CxrError():
            return problem(500, error.message, field=error.field, remedy=error.remedy)
        case HTTPException():
            return problem(error.status_code, str(error.detail))
    return problem(500, "The server failed; its own log says why")


class Problems:
    """Makes a problem of every refusal in plain text below `/v1`, whichever part refused."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_below(scope["path"], [REST]):
            await self.app(scope, receive, send)
            return
        refusal: Message | None = None
        text = b""

        async def translated(message: Message) -> None:
            nonlocal refusal, text
            if message["type"] == "http.response.start" and _is_plain(message):
                refusal = message
            elif refusal is None:
                await send(message)
            else:
                text += message.get("body", b"")
                if not message.get("more_body"):
                    for each in _as_problem(refusal, text):
                        await send(each)

        await self.app(scope, receive, translated)


def _is_plain(start: Message) -> bool:
    kind: bytes = dict(start["headers"]).get(b"content-type", b"")
    return start["status"] >= 400 and kind.startswith(b"text/plain")


def _as_problem(start: Message, text: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    status: int = start["status"]
    response = problem(status, text.decode().strip() or HTTPStatus(status).phrase)
    replaced = (b"content-type", b"content-length")
    kept = [(name, value) for name, value in start["headers"] if name not in replaced]
    head = {**start, "headers": [*kept, *response.raw_headers]}
    return head, {"type": "http.response.body", "body": response.body}
