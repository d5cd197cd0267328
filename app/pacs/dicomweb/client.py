"""A client of one HTTP service: signed in, bounded in time and size, and it follows no redirect."""

import base64
import contextlib
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import httpx

from app.pacs.sections.web import HttpService
from cxr_mm.core.errors import ParamsError

PIECE = 1 << 16
JSON_BYTES = 8 << 20
WHOLE = 10
"""Times `seconds` that a whole answer may take."""
LATER = (401, 403, 408, 425, 429)
"""Status, beside those of a server's fault, that says nothing of what was asked for."""
Params = Mapping[str, str | int]


class AwayError(Exception):
    """A service that cannot be reached, or that answers nothing now, and why."""


class DeclinedError(Exception):
    """A service that declines one request, or answers it with something else, and why."""


class Answer:
    """An answer whose body is read piece by piece.

    Args:
        response: of httpx, whose body was not read.
        until: monotonic time by which it must have ended.
    """

    def __init__(self, response: httpx.Response, until: float) -> None:
        self.status, self._response, self._until = response.status_code, response, until
        self.content_type = response.headers.get("Content-Type", "")

    def pieces(self, most: int) -> Iterator[bytes]:
        """The body, as sent.

        Raises:
            DeclinedError: it is compressed, or has more than `most` bytes.
            AwayError: it takes too long.
        """
        if self._response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise DeclinedError("the answer is compressed, which was not asked for")
        total = 0
        for piece in self._response.iter_raw(PIECE):
            total += len(piece)
            if total > most:
                raise DeclinedError(f"the answer has more than {most:,} bytes")
            if time.monotonic() > self._until:
                raise AwayError("the answer takes too long")
            yield piece


class HttpClient:
    """Asks one service; safe for one thread.

    Args:
        service: which, and how to sign in.
        tls: instead of what the service's settings say, as with the node's own certificate.

    Raises:
        ParamsError: secret or authority cannot be used.
    """

    def __init__(self, service: HttpService, tls: ssl.SSLContext | None = None) -> None:
        self._service = service
        self._client = httpx.Client(
            verify=tls or service.verification(),
            timeout=service.seconds,
            follow_redirects=False,
            trust_env=False,  # no proxy or .netrc that the node's file does not name
            headers={"Accept-Encoding": "identity"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    @contextlib.contextmanager
    def asking(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Iterator[Answer]:
        """An answer, until the context ends.

        Args:
            path: below the service's root; the caller answers for its characters.

        Raises:
            AwayError: there is none, or it says nothing of what was asked for.
        """
        until = time.monotonic() + WHOLE * self._service.seconds
        request = self._client.build_request(
            method,
            f"{self._service.url}{path}",
            params=dict(params or {}),
            headers={**(headers or {}), **self._authorisation()},
            content=content,
        )
        try:
            response = self._client.send(request, stream=True)
            with contextlib.closing(response):
                if response.status_code >= 500 or response.status_code in LATER:
                    raise AwayError(f"the service answers {response.status_code}")
                yield Answer(response, until)
        except httpx.HTTPError as error:
            # Not chained: it holds the request, with identifiers in its address.
            raise AwayError(f"the service cannot be reached ({type(error).__name__})") from None

    def json(self, path: str, params: Params | None = None, accept: str = "") -> Any:
        """What a GET gives, read as JSON; None where there is no content (204).

        Raises:
            AwayError: the service answers nothing now.
            DeclinedError: it declines, or its answer is no JSON of at most 8 MiB.
        """
        with self.asking("GET", path, params, {"Accept": accept} if accept else {}) as answer:
            if answer.status == 204:
                return None
            if answer.status != 200:
                raise DeclinedError(f"the service answers {answer.status}")
            return parsed(b"".join(answer.pieces(JSON_BYTES)))

    def _authorisation(self) -> dict[str, str]:
        try:
            secret = self._service.secret()
        except ParamsError as error:
            raise AwayError(error.message) from None
        if self._service.sign_in == "bearer":
            return {"Authorization": f"Bearer {secret}"}
        if self._service.sign_in == "basic":
            encoded = base64.b64encode(secret.encode()).decode()
            return {"Authorization": f"Basic {encoded}"}
        return {}


def parsed(data: bytes) -> Any:
    """JSON.

    Raises:
        DeclinedError: it is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise DeclinedError("the answer is no JSON") from None
