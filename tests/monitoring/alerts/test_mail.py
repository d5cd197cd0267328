"""Mail: what a real SMTP server receives."""

import email
import email.policy

import pytest
from pydantic import ValidationError

from cxr_mm.alerts.channels import send_mail
from cxr_mm.alerts.settings import MailSettings
from cxr_mm.core.errors import CxrError, ParamsError


@pytest.fixture
def settings(mailbox):
    return MailSettings(
        host="127.0.0.1",
        port=mailbox.server_address[1],
        security="none",
        sender="cxr@example.org",
        recipients=("ada@example.org", "grace@example.org"),
    )


def test_the_mail_says_what_moved_in_plain_text(mailbox, settings, notice):
    result = notice()
    for _ in range(2):
        send_mail(result, settings)
    first, second = (
        email.message_from_bytes(raw, policy=email.policy.default) for raw in mailbox.got
    )
    assert first["Subject"] == "[cxr_mm] ALARM icu: 60 studies, 0 labelled"
    assert first["To"] == "ada@example.org, grace@example.org"
    text = first.get_content()
    assert "- alarm, data drift: clinical.age: median 55 to 70" in text
    assert "2026-03-01 06:00 UTC to 2026-03-02 06:00 UTC" in text
    assert result.notice_id in first["Message-ID"]
    assert result.notice_id in second["Message-ID"]


def test_a_server_without_tls_gets_no_mail_that_asks_for_it(mailbox, settings, notice):
    guarded = settings.model_copy(update={"security": "starttls"})
    with pytest.raises(CxrError, match="was not taken"):
        send_mail(notice(), guarded)
    assert not mailbox.got


def test_refused_recipients_are_an_error(mailbox, settings, notice):
    mailbox.refuse = True
    with pytest.raises(CxrError, match="was not taken"):
        send_mail(notice(), settings)


def test_a_password_is_found_or_named_and_never_sent_in_the_clear(settings, notice, tmp_path):
    fields = settings.model_dump() | {"user": "cxr", "security": "starttls"}
    with_variable = MailSettings(**fields | {"password_variable": "NO_SUCH_VARIABLE"})
    with pytest.raises(ParamsError, match="NO_SUCH_VARIABLE: is not set"):
        send_mail(notice(), with_variable)
    with_file = MailSettings(**fields | {"password_file": tmp_path / "none"})
    with pytest.raises(ParamsError, match="cannot be read"):
        send_mail(notice(), with_file)
    for bad in (
        fields,
        fields | {"password_variable": "A", "password_file": tmp_path},
        fields | {"password_variable": "A", "security": "none"},
    ):
        with pytest.raises(ValidationError):
            MailSettings(**bad)
