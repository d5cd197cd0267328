"""Windows to notify of, and servers on this machine that receive the notices."""

import socketserver
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cxr_mm.core.verdict import Reason, Verdict
from cxr_mm.prediction_log import open_log
from monitoring.alerts import Notice
from monitoring.scheduler.cron import Window
from monitoring.scheduler.state import open_state

WINDOW = Window(datetime(2026, 3, 1, 6, tzinfo=UTC), datetime(2026, 3, 2, 6, tzinfo=UTC))


def notice(status="alarm", names=("clinical.age",), level="alarm"):
    reasons = tuple(
        Reason(
            drift="data",
            name=name,
            title=name,
            level=level,
            score=9.0,
            limit=4.0,
            text=f"{name}: median 55 to 70",
        )
        for name in names
    )
    verdict = Verdict(
        status=status,
        task="icu",
        digest="a" * 64,
        n=60,
        n_labelled=0,
        first=None,
        last=None,
        headline="60 studies,\n0 labelled",
        reasons=reasons if status in ("warn", "alarm") else (),
    )
    return Notice.of_verdict(verdict, WINDOW)


@pytest.fixture(name="notice")
def _notice():
    return notice


@pytest.fixture
def state(tmp_path):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    open_log(url).close()
    opened = open_state(url)
    yield opened
    opened.close()


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver():
    """A web server: `answers` are given one by one, then 200; `got` is what was posted."""

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server = self.server
            server.got.append((self.path, self.headers, body))
            code = server.answers.pop(0) if server.answers else 200
            self.send_response(code)
            if 300 <= code < 400:
                self.send_header("Location", f"{server.address}/elsewhere")
            self.end_headers()

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Taker)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.got, server.answers = [], []
    with serving(server):
        yield server


@pytest.fixture
def mailbox():
    """An SMTP server without TLS; `got` is what was sent, `refuse` refuses recipients."""

    class Taker(socketserver.StreamRequestHandler):
        def handle(self):
            self.say("220 mailbox")
            while line := self.rfile.readline():
                word = line.decode().strip().upper()
                if word.startswith("RCPT") and self.server.refuse:
                    self.say("550 no one of that name")
                elif word == "DATA":
                    self.say("354 go on")
                    self.server.got.append(self.mail())
                    self.say("250 taken")
                elif word == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 mailbox")

        def say(self, line):
            self.wfile.write(f"{line}\r\n".encode())

        def mail(self):
            lines = []
            while (line := self.rfile.readline()) != b".\r\n":
                lines.append(line)
            return b"".join(lines)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Taker)
    server.got, server.refuse = [], False
    with serving(server):
        yield server
