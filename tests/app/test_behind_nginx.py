"""Two processes of the page behind nginx, as docs/examples/nginx-page.conf sets it up."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.security.auth import add_user
from cxr_mm.prediction_log import open_log

ROOT = Path(__file__).parents[2]
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PASSWORD = "correct horse battery"
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx (apt install nginx-light)")
AROUND = """
daemon off; pid nginx.pid; error_log error.log; events {{}}
http {{
    access_log off; client_body_temp_path body; proxy_temp_path proxied;
    fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    {site}
}}
"""


def free_ports(count):
    """Ports side by side that no one listens on."""
    for first in range(20000 + os.getpid() % 20000, 65000, count):
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return range(first, first + count)
    raise AssertionError


class Site:
    """The processes, nginx before them, and the log that they share."""

    def __init__(self, folder, bundle):
        self.log = f"sqlite:///{folder}/log.db"
        *self.ports, front = free_ports(3)
        self.url = f"http://127.0.0.1:{front}"
        users = folder / "users.txt"
        add_user(users, "ada", PASSWORD)
        words = ["--bundle", bundle, "--log", self.log, "--users", users, "--processes", "2"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
        self.page = subprocess.Popen(
            [sys.executable, "-m", "app", "--port", str(self.ports[0]), *map(str, words)],
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        site = (ROOT / "docs/examples/nginx-page.conf").read_text()
        for shown, real in zip(("7860", "7861", "8080"), (*self.ports, front), strict=True):
            site = re.sub(rf"\b{shown}(?=;)", str(real), site)
        (folder / "nginx.conf").write_text(AROUND.format(site=site))
        self.nginx = subprocess.Popen([NGINX, "-p", folder, "-c", folder / "nginx.conf"])

    def await_pages(self):
        until = time.monotonic() + 180
        for port in self.ports:
            while not _answers(f"http://127.0.0.1:{port}/healthz"):
                assert time.monotonic() < until
                assert self.page.poll() is None
                time.sleep(0.2)

    def end(self):
        for process in (self.page, self.nginx):
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def signed_in(self):
        """A browser of a user who has just signed in."""
        browser = httpx.Client(base_url=self.url, timeout=60)
        form = browser.get("/sign-in").text
        token = re.search(r'name="form" value="([^"]+)"', form)[1]
        fields = {"name": "ada", "password": PASSWORD, "form": token, "next": "/"}
        assert browser.post("/sign-in", data=fields).status_code == 303
        return browser

    def predictions(self):
        """How many each process has counted."""
        texts = [httpx.get(f"http://127.0.0.1:{port}/metrics").text for port in self.ports]
        pattern = r'cxr_mm_done_total\{kind="prediction".*\} ([0-9.]+)'
        return [sum(map(float, re.findall(pattern, text))) for text in texts]


def _answers(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def site(bundle_folder, tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("nginx"), bundle_folder)
    try:
        site.await_pages()
        yield site
    finally:
        site.end()


def predict(browser, image, study_id):
    """What the page streams back: the kind of the last event, and its data."""
    study = [image, {"age": 60}, "Fever.", "", study_id, ""]
    call = browser.post("/gradio_api/call/predict", json={"data": study})
    assert call.status_code == 200, call.text  # 403 where another process has the upload
    stream = browser.get(f"/gradio_api/call/predict/{call.json()['event_id']}")
    kind, _, data = stream.text.rstrip().rpartition("\n")
    return kind.rpartition("\n")[2], json.loads(data.removeprefix("data: "))


def test_every_user_stays_with_one_process_and_both_share_the_work(site):
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (90, 80), np.uint8)
    Image.fromarray(noise).save(content, "PNG")
    asked = 0
    while asked < 4 or not all(site.predictions()):
        assert asked < 40
        browser = site.signed_in()
        files = {"files": ("noise.png", content.getvalue())}
        path = browser.post("/gradio_api/upload", files=files).json()[0]
        kind, _ = predict(browser, {"path": path, "meta": {"_type": "gradio.FileData"}}, "noise")
        assert kind == "event: error"  # of the input gate: no radiograph
        kind, (answer,) = predict(browser, None, f"s{asked}")
        assert (kind, answer["study_id"]) == ("event: complete", f"s{asked}")
        asked += 1
    assert sum(site.predictions()) == asked
    with open_log(site.log) as log:
        assert len(list(log.read_window("synthetic"))) == asked


def test_who_has_signed_in_is_known_to_both_and_so_is_who_has_signed_out(site):
    browser = site.signed_in()
    cookies = dict(browser.cookies)

    def statuses():
        return [
            httpx.get(f"http://127.0.0.1:{port}/config", cookies=cookies).status_code
            for port in site.ports
        ]

    assert statuses() == [200, 200]
    assert browser.post("/sign-out").status_code == 303
    assert statuses() == [401, 401]


def test_programs_reach_both(site):
    before = site.predictions()
    for _ in range(4):
        answer = httpx.post(
            f"{site.url}/v1/predict", json={"note": "Fever."}, auth=("ada", PASSWORD), timeout=60
        )
        assert answer.status_code == 200, answer.text
    assert all(now > then for now, then in zip(site.predictions(), before, strict=True))
