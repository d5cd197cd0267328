"""Fixtures of DICOMweb: an archive made of answers that a test sets, on a port of the loopback."""

import io
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.pacs.settings import NodeSettings
from tests.app.pacs.conftest import node_fields

BOUNDARY = "b1"


class Web:
    """Answers by path; a path without one gets 404. `asked` has each request in turn."""

    def __init__(self):
        self.answers, self.asked, self.bodies = {}, [], []

    def set(self, path, body=b"", status=200, kind="application/dicom+json", **headers):
        self.answers[path] = (status, {"Content-Type": kind, **headers}, body)


def handler(web):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer()

        def do_POST(self):
            web.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer()

        def answer(self):
            path, _, query = self.path.partition("?")
            web.asked.append((self.command, path, query, dict(self.headers)))
            found = web.answers.get(path, (404, {}, b""))
            status, headers, body = found(query) if callable(found) else found
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


@contextmanager
def serving(web, tls=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(web))
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def web():
    made = Web()
    with serving(made) as port:
        made.url = f"http://127.0.0.1:{port}/dicom-web"
        yield made


@pytest.fixture
def web_settings(tmp_path, web):
    """A node whose one peer speaks DICOMweb alone, and is fetched from."""
    peer = {"name": "archive", "web": {"url": web.url, "seconds": 2, "poll": {}}}
    return NodeSettings.model_validate(node_fields(tmp_path, peers=[peer]))


def bytes_of(dataset):
    """A data set as a file of part 10."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def multipart(*parts, boundary=BOUNDARY, kind="application/dicom"):
    """Body of multipart/related, and its content type."""
    pieces = [
        f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + part + b"\r\n" for part in parts
    ]
    body = b"".join(pieces) + f"--{boundary}--\r\n".encode()
    return body, f'multipart/related; type="application/dicom"; boundary={boundary}'
