"""Mail: a notice as plain text by SMTP (RFC 5321), under TLS unless the settings say otherwise."""

import os
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from cxr_mm.errors import CxrError, ParamsError
from monitoring.alerts.notice import Notice
from monitoring.settings import MailSettings


def send_mail(notice: Notice, settings: MailSettings) -> None:
    """Send a notice to all recipients.

    Raises:
        ParamsError: there is no password where there should be one.
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


def message(notice: Notice, settings: MailSettings) -> EmailMessage:
    """The mail of a notice; the same notice has the same id in every try."""
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
