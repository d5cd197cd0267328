"""Alert channels: mail by SMTP (RFC 5321), and a signed webhook.

The standard library, not a notification library: those neither sign a webhook with HMAC nor refuse
redirects.
"""

import hashlib
import hmac
import http.client
import os
import smtplib
import ssl
import time
import urllib.error
import urllib.request
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, Protocol

from cxr_mm.alerts.settings import MailSettings, WebhookSettings
from cxr_mm.core.errors import CxrError, ParamsError


class Alert(Protocol):
    """What is sent; `notice_id` is the same in every attempt, so that repeats can be dropped."""

    @property
    def notice_id(self) -> str: ...

    @property
    def subject(self) -> str: ...

    @property
    def text(self) -> str: ...

    def model_dump_json(self) -> str: ...


def send_mail(notice: Alert, settings: MailSettings) -> None:
    """Send a notice to all recipients.

    Raises:
        ParamsError: the password is missing.
        CxrError: it could not be delivered.
    """
    password = _password(settings) if settings.user else ""
    try:
        with _connected(settings) as server:
            if settings.user:
                server.login(settings.user, password)
            server.send_message(message(notice, settings))
    except (OSError, smtplib.SMTPException, ssl.SSLError) as error:
        raise CxrError(
            f"the mail was not taken ({error})",
            field=f"{settings.host}:{settings.port}",
            remedy="See that the server answers and knows the sender",
        ) from error


def message(notice: Alert, settings: MailSettings) -> EmailMessage:
    """Build the mail of a notice; its Message-ID is the same in every attempt."""
    mail = EmailMessage()
    mail["Subject"] = f"[cxr_mm] {notice.subject}"
    mail["From"], mail["To"] = settings.sender, ", ".join(settings.recipients)
    mail["Date"] = formatdate(localtime=False)
    mail["Message-ID"] = make_msgid(notice.notice_id, domain="cxr-mm.invalid")
    mail.set_content(notice.text)
    return mail


def _connected(settings: MailSettings) -> smtplib.SMTP:
    context = ssl.create_default_context()
    where, timeout = (settings.host, settings.port), settings.timeout_seconds
    if settings.security == "ssl":
        return smtplib.SMTP_SSL(*where, timeout=timeout, context=context)
    server = smtplib.SMTP(*where, timeout=timeout)
    if settings.security == "starttls":
        try:
            server.starttls(context=context)
        except (OSError, smtplib.SMTPException):
            server.close()
            raise
    return server


def _password(settings: MailSettings) -> str:
    if settings.password_file is not None:
        try:
            return settings.password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ParamsError(
                f"cannot be read ({error.strerror})", field=str(settings.password_file)
            ) from error
    variable = settings.password_variable or ""
    if password := os.environ.get(variable):
        return password
    raise ParamsError("is not set", field=variable, remedy="Set it to the password of the mail")


FIRST_WAIT = 1.0
"""Seconds before the second try; each wait is twice the one before."""
WORTH_ANOTHER = (408, 425, 429, 500, 502, 503, 504)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the alert is for the named host alone."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(notice: Alert, settings: WebhookSettings, first_wait: float = FIRST_WAIT) -> None:
    """POST a notice, with retries.

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
        trouble, worth_another = _attempt(_request(settings.url, body, key), settings)
        if not trouble:
            return
        if not worth_another:
            break
    raise CxrError(trouble, field=settings.url, remedy="See that the receiver answers")


def signature(key: str, timestamp: str, body: bytes) -> str:
    """Value of the signature header."""
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


def _attempt(request: urllib.request.Request, settings: WebhookSettings) -> tuple[str, bool]:
    """Send once; returns the error, if any, and whether a retry may help."""
    opener = urllib.request.build_opener(NoRedirect)
    try:
        with opener.open(request, timeout=settings.timeout_seconds):
            return "", False
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}", error.code in WORTH_ANOTHER
    except (OSError, http.client.HTTPException) as error:
        return f"it cannot be reached ({error})", True
