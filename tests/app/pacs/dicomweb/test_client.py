"""The client: signed in by a secret that no YAML holds, bounded, and it leads nowhere else."""

import gzip
import ssl

import pytest
from pydantic import ValidationError

from app.pacs.dicomweb.client import AwayError, DeclinedError, HttpClient
from app.pacs.sections.web import HttpService
from benchmarks.system.pacs_peers import free_port
from cxr_mm.core.errors import ParamsError
from tests.app.pacs.dicomweb.conftest import Web, serving


def client(web, **fields):
    return HttpClient(HttpService(url=web.url, seconds=2, **fields))


def test_basic_and_bearer_are_sent_from_file_and_variable(web, tmp_path, monkeypatch):
    web.set("/dicom-web/x", b"[1]")
    secret = tmp_path / "secret"
    secret.write_text("ada:pass:word\n")
    secret.chmod(0o600)
    monkeypatch.setenv("ARCHIVE_TOKEN", "t0ken")
    with client(web, sign_in="basic", secret_file=secret) as basic:
        assert basic.json("/x") == [1]
    with client(web, sign_in="bearer", secret_variable="ARCHIVE_TOKEN") as bearer:
        assert bearer.json("/x") == [1]
    sent = [headers["Authorization"] for _, _, _, headers in web.asked]
    assert sent == ["Basic YWRhOnBhc3M6d29yZA==", "Bearer t0ken"]


def test_a_secret_that_others_can_read_is_not_used(web, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    service = HttpService(url=web.url, sign_in="bearer", secret_file=secret)
    with pytest.raises(ParamsError, match="others can read it"):
        service.secret()
    with HttpClient(service) as opened, pytest.raises(AwayError):
        opened.json("/x")
    assert web.asked == []


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://pacs.example.org/dicom-web"},
        {"url": "https://ada:secret@pacs.example.org"},
        {"url": "file:///etc/passwd"},
        {"url": "https://pacs.example.org?token=1"},
        {"url": "https://pacs.example.org", "sign_in": "basic"},
        {"url": "https://pacs.example.org", "secret_variable": "X"},
    ],
)
def test_an_unsafe_service_is_refused(fields):
    with pytest.raises(ValidationError):
        HttpService(**fields)


def test_no_redirect_is_followed_and_no_size_trusted(web):
    web.set("/dicom-web/away", b"", 302, Location=f"{web.url}/x")
    web.set("/dicom-web/large", b"[" + b" " * (9 << 20) + b"]")
    web.set("/dicom-web/bomb", gzip.compress(b"0" * 1000), **{"Content-Encoding": "gzip"})
    web.set("/dicom-web/deep", b"[" * 200_000)
    with client(web) as opened:
        for path in ("/away", "/large", "/bomb", "/deep", "/missing"):
            with pytest.raises(DeclinedError):
                opened.json(path)
    assert all(path != "/dicom-web/x" for _, path, _, _ in web.asked)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_answer_that_says_nothing_now_is_away(web, status):
    web.set("/dicom-web/x", b"", status)
    with client(web) as opened, pytest.raises(AwayError, match=str(status)):
        opened.json("/x")


def test_no_service_is_away_without_the_address():
    url = f"http://127.0.0.1:{free_port()}"
    with HttpClient(HttpService(url=url)) as opened, pytest.raises(AwayError) as raised:
        opened.json("/studies", {"PatientID": "Doe"})
    assert "Doe" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_certificate_of_the_authority_alone_is_trusted(authority):
    web = Web()
    web.set("/x", b"[]")
    for name, works in (("peer", True), ("stranger", False)):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(authority / f"{name}.pem", authority / f"{name}.key")
        with serving(web, tls) as port:
            service = HttpService(url=f"https://127.0.0.1:{port}", authority=authority / "ca.pem")
            with HttpClient(service) as opened:
                if works:
                    assert opened.json("/x") == []
                else:
                    with pytest.raises(AwayError):
                        opened.json("/x")
