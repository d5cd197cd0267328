"""Tracking: a server of MLflow that fails, in whatever way, costs one warning and no stage."""

import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cxr_mm.export import tracking
from cxr_mm.export.tracking import tracking_run

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint")  # of MLflow's own classes
RUN = {"run_id": "r1", "experiment_id": "1", "artifact_uri": "unreadable://1/r1"}
ANSWER = json.dumps({"experiment": {"experiment_id": "1"}, "run": {"info": RUN, "data": {}}})
"""What every call of a run is answered with: each takes what it looks for."""
WAIT, LIMIT = 0.5, 1
"""Seconds that a stage waits at its end here, and that a request may take."""
TO_BEGIN = 2
"""Calls that a run begins with: which experiment, and a run of it."""


class Stub:
    """Server that answers every call, from some call on with a fault, until it is well again."""

    def __init__(self) -> None:
        self.calls, self.sent = list[str](), dict[str, bytes]()
        self.fault, self.begins_at, self.closing = None, 0, threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format, *args):
                del format, args

            def do_GET(self):
                call = self.path.partition("?")[0].rpartition("mlflow/")[2]
                stub.calls.append(call)
                stub.sent[call] = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if stub.fault and len(stub.calls) > stub.begins_at:
                    stub.fault(self)
                else:
                    self.answer(200, ANSWER)

            do_POST = do_PATCH = do_GET  # noqa: N815

            def answer(self, status, text, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://ada:secret@127.0.0.1:{self.server.server_port}"

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def hang(self, request):
        self.closing.wait(20)


FAULTS = {
    "500": lambda stub: lambda request: request.answer(500, "{}"),
    "403": lambda stub: lambda request: request.answer(403, '{"error_code": "PERMISSION_DENIED"}'),
    "busy for an hour": lambda stub: lambda request: request.answer(503, "", Retry_After="3600"),
    "a page to sign in": lambda stub: lambda request: request.answer(200, "<html>Sign in"),
    "nothing of a run": lambda stub: lambda request: request.answer(200, "[]"),
    "hung up": lambda stub: lambda request: request.connection.close(),
    "slow": lambda stub: stub.hang,
}


@pytest.fixture
def stub(monkeypatch):
    pytest.importorskip("mlflow")
    created = Stub()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", created.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(LIMIT))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    monkeypatch.setattr(tracking, "WAIT_AT_END", WAIT)
    yield created
    created.close()
    await_sender()  # while requests have the limits of above


def await_sender():
    for thread in threading.enumerate():
        if thread.name == tracking.SENDER:
            thread.join()


def stage(epochs=3):
    """A stage with tracking; the seconds that each of its epochs, and its end, wait."""
    waits, before = [], time.monotonic()
    with tracking_run("auto", "spot", "train_image") as server:
        server.parameters({"backbone": "small_cnn"})
        for epoch in range(epochs):
            server.figures({"auc": 0.5, "none": None}, epoch)
            waits.append(time.monotonic() - before)
            before = time.monotonic()
        server.tag("bundle", "digest")
    return waits, time.monotonic() - before


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.name == tracking.__name__]


@pytest.mark.parametrize("begins_at", [0, TO_BEGIN])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_warning_and_the_stage_waits_for_nothing(stub, fault, begins_at, caplog):
    stub.fault, stub.begins_at = FAULTS[fault](stub), begins_at
    with caplog.at_level(logging.WARNING):
        waits, at_end = stage()
        await_sender()
    (warning,) = warnings_of(caplog)
    assert "takes nothing more of this run" in warning
    assert "secret" not in warning
    assert max(waits) < LIMIT
    assert at_end < WAIT + LIMIT


def test_a_run_of_which_a_value_was_refused_ends_and_is_marked(stub, tmp_path, caplog, capsys):
    """Here the store of files is one that no package reads, as with S3 and no boto3."""
    card = tmp_path / "card.md"
    card.write_text("a card")
    with caplog.at_level(logging.WARNING), tracking_run("auto", "spot", "evaluate") as server:
        server.figures({"auc": 0.5})
        server.file(card)
        server.figures({"auc": 0.6})
    assert len(warnings_of(caplog)) == 1
    assert stub.calls[TO_BEGIN] == "runs/log-batch"
    assert stub.calls.count("runs/log-batch") == 1
    assert stub.calls[-1] == "runs/update"
    assert json.loads(stub.sent["runs/update"])["status"] == "FINISHED"
    tag = json.loads(stub.sent["runs/set-tag"])
    assert (tag["key"], tag["value"]) == (tracking.INCOMPLETE, "true")
    assert "secret" not in capsys.readouterr().out
