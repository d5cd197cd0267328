"""Mail under TLS, with a password: a real SMTP server with a certificate of our own."""

import socket
import ssl
from types import SimpleNamespace

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from cxr_mm.alerts.channels import send_mail
from cxr_mm.alerts.settings import MailSettings
from cxr_mm.core.errors import CxrError

PASSWORD = "a password"


class Mailbox:
    """Keeps what it is sent."""

    def __init__(self):
        self.got = []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        self.got.append((session.ssl is not None, session.auth_data, envelope))
        return "250 taken"


def known(server, session, envelope, mechanism, data):
    """Lets in the one who knows the password."""
    right = (data.login, data.password) == (b"cxr", PASSWORD.encode())
    return AuthResult(success=right, handled=right, auth_data=data.login.decode())


def free_port():
    """One that nothing listens at; aiosmtpd needs its number."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(params=["starttls", "ssl"])
def server(request, authority):
    """A server that takes mail under TLS only, from whom it knows; `got` is what it took."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    starts = request.param == "starttls"
    mailbox, port = Mailbox(), free_port()
    controller = Controller(
        mailbox,
        hostname="127.0.0.1",
        port=port,
        ssl_context=None if starts else context,
        tls_context=context if starts else None,
        require_starttls=starts,
        authenticator=known,
        auth_required=starts,
        auth_require_tls=starts,
    )
    controller.start()
    yield SimpleNamespace(got=mailbox.got, port=port, security=request.param)
    controller.stop()


@pytest.fixture
def settings(server, tmp_path):
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    return MailSettings(
        host="127.0.0.1",
        port=server.port,
        security=server.security,
        sender="cxr@example.org",
        recipients=("ada@example.org",),
        user="cxr",
        password_file=tmp_path / "password",
    )


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    """The system trusts the authority."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


@pytest.mark.usefixtures("trusted")
def test_a_mail_goes_under_tls_in_the_name_of_the_user(server, settings, notice):
    send_mail(notice(), settings)
    ((_, user, envelope),) = server.got
    assert (user, envelope.rcpt_tos) == ("cxr", ["ada@example.org"])
    assert b"ALARM icu" in envelope.content


@pytest.mark.usefixtures("trusted")
def test_a_wrong_password_is_an_error_that_does_not_repeat_it(server, settings, notice):
    settings.password_file.write_text("another")
    with pytest.raises(CxrError, match="was not taken") as failed:
        send_mail(notice(), settings)
    assert "another" not in str(failed.value)
    assert "authentication" in str(failed.value).lower()
    assert server.got == []


def test_a_server_whose_certificate_nobody_vouches_for_gets_neither_mail_nor_password(
    server, settings, notice
):
    with pytest.raises(CxrError, match=r"was not taken .*certificate"):
        send_mail(notice(), settings)
    assert server.got == []
