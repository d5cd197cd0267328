"""Webhook: a POST of JSON under an HMAC-SHA256 (RFC 2104) over time and body.

`X-CXR-MM-Signature: sha256=HEX` signs `TIMESTAMP.BODY`, with the timestamp (seconds since 1970) of
the header `X-CXR-MM-Timestamp`: a receiver refuses what is old, so that nothing can be replayed.
"""

import hashlib
import hmac
import http.client
import os
import time
import urllib.error
import urllib.request
from typing import Any

from cxr_mm.errors import CxrError, ParamsError
from monitoring.alerts.notice import Notice
from monitoring.settings import WebhookSettings

FIRST_WAIT = 1.0
"""Seconds before the second try; each wait is twice the one before."""
WORTH_ANOTHER = (408, 425, 429, 500, 502, 503, 504)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the alert is for the named host alone."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(notice: Notice, settings: WebhookSettings, first_wait: float = FIRST_WAIT) -> None:
    """Send a notice, in several tries.

    Raises:
        ParamsError: the key of the signature is not set.
        CxrError: it could not be delivered.
    """
    key = os.environ.get(settings.secret_variable, "")
    if not key:
        raise ParamsError(
            "is not set", field=settings.secret_variable, remedy="Set it to the webhook's key"
        )
    body = notice.model_dump_json().encode()
    for attempt in range(settings.tries):
        if attempt:
            time.sleep(first_wait * 2 ** (attempt - 1))
        trouble, worth_another = _tried(_request(settings.url, body, key), settings)
        if not trouble:
            return
        if not worth_another:
            break
    raise CxrError(trouble, field=settings.url, remedy="See that the receiver answers")


def signature(key: str, timestamp: str, body: bytes) -> str:
    """What the header holds."""
    signed = hmac.new(key.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={signed.hexdigest()}"


def _request(url: str, body: bytes, key: str) -> urllib.request.Request:
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "cxr_mm",
        "X-CXR-MM-Timestamp": timestamp,
        "X-CXR-MM-Signature": signature(key, timestamp, body),
    }
    return urllib.request.Request(url, body, headers, method="POST")


def _tried(request: urllib.request.Request, settings: WebhookSettings) -> tuple[str, bool]:
    """What went wrong, if anything, and whether another try may help."""
    opener = urllib.request.build_opener(NoRedirect)
    try:
        with opener.open(request, timeout=settings.timeout_seconds):
            return "", False
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}", error.code in WORTH_ANOTHER
    except (OSError, http.client.HTTPException) as error:
        return f"it cannot be reached ({error})", True
