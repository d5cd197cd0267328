"""Limits: headers, hosts, origins, rates and sizes, each around an application that echoes."""

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.metrics import Metrics
from app.security.middleware import Buckets, Limited, Proxy, SafeHeaders, SameSite, is_within
from app.settings import Limits

UPLOAD, ASK = "/gradio_api/upload", "/gradio_api/queue/join"


async def echo(request: Request):
    body = await request.body()
    scope = request.scope
    seen = {"bytes": len(body), "user": scope.get("user"), "client": scope["client"][0]}
    return JSONResponse(seen | {"scheme": scope["scheme"], "headers": dict(request.headers)})


ECHO = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])


def client(app, address="127.0.0.1", **options):
    return TestClient(app, client=(address, 5000), **options)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_bucket_empties_and_fills_up_again():
    clock = Clock()
    buckets = Buckets(60, clock)
    assert [buckets.wait("a") for _ in range(60)] == [0.0] * 60
    assert buckets.wait("a") == pytest.approx(1.0)
    assert buckets.wait("b") == 0.0
    clock.now = 1.0
    assert buckets.wait("a") == 0.0
    assert buckets.wait("a") > 0


def test_a_refused_request_does_not_put_the_next_off():
    clock = Clock()
    buckets = Buckets(1, clock)
    buckets.wait("a")
    for second in range(0, 60, 10):
        clock.now = float(second)
        assert buckets.wait("a") == pytest.approx(60 - second)
    clock.now = 60.0
    assert buckets.wait("a") == 0.0


def test_too_many_posts_are_refused_with_the_time_to_wait():
    metrics = Metrics()
    requested = client(Limited(ECHO, Limits(requests_per_minute=3), metrics))
    assert [requested.post(ASK).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert 1 <= int(requested.post(ASK).headers["Retry-After"]) <= 20
    assert requested.get("/gradio_api/queue/data").status_code == 200
    assert requested.post(UPLOAD).status_code == 200
    assert 'cxr_mm_refused_total{reason="rate"} 2.0' in metrics.text().decode()


def test_another_address_has_tokens_of_its_own():
    app = Limited(ECHO, Limits(requests_per_minute=1), Metrics())
    assert client(app, "10.0.0.1").post(ASK).status_code == 200
    assert client(app, "10.0.0.1").post(ASK).status_code == 429
    assert client(app, "10.0.0.2").post(ASK).status_code == 200


@pytest.mark.parametrize(
    ("path", "most"), [(UPLOAD, 5000), (ASK, 400), ("/synthetic" + ASK, 400), ("/sign-in", 90)]
)
@pytest.mark.parametrize("said", [None, "1", "right"])
def test_a_body_is_measured_as_it_comes_whatever_it_says_of_itself(path, most, said):
    limits = Limits(upload_bytes=5000, request_bytes=400, form_bytes=90)
    requested = client(Limited(ECHO, limits, Metrics()))

    def send(size):
        headers = {"Content-Length": str(size) if said == "right" else said} if said else {}
        chunks = (b"x" for _ in range(size))
        return requested.post(path, content=chunks, headers=headers).status_code

    assert send(most) == 200
    assert send(most + 1) == 413


def test_what_is_too_large_is_counted():
    metrics = Metrics()
    client(Limited(ECHO, Limits(request_bytes=10), metrics)).post(ASK, content=b"x" * 11)
    assert 'cxr_mm_refused_total{reason="size"} 1.0' in metrics.text().decode()


def asked_raw(app, receive):
    """Status of a POST of a file whose body `receive` gives."""
    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": UPLOAD,
        "query_string": b"",
        "headers": [],
        "client": ("10.0.0.1", 5000),
    }
    sent = []

    async def send(message):
        sent.append(message)

    async def run():
        await app(dict(scope), receive, send)
        return sent[0]["status"]

    return run()


def test_more_uploads_than_allowed_at_once_wait_outside():
    app = Limited(ECHO, Limits(uploads_at_once=1, upload_seconds=5), Metrics())

    async def both():
        begun, done = asyncio.Event(), asyncio.Event()

        async def slow():
            begun.set()
            await done.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        first = asyncio.create_task(asked_raw(app, slow))
        await begun.wait()
        second = await asked_raw(app, slow)
        done.set()
        return await first, second, await asked_raw(app, slow)

    assert asyncio.run(both()) == (200, 503, 200)


def test_an_upload_that_never_ends_is_given_up():
    app = Limited(ECHO, Limits(upload_seconds=0.05), Metrics())

    async def never():
        await asyncio.Event().wait()

    assert asyncio.run(asked_raw(app, never)) == 408


def test_an_upload_ends_with_its_last_byte_however_long_the_answer_takes():
    async def main():
        arrived, end = asyncio.Event(), asyncio.Event()

        async def explains(scope, receive, send):
            await receive()
            arrived.set()
            await end.wait()
            await ECHO(scope, receive, send)

        async def whole():
            return {"type": "http.request", "body": b"", "more_body": False}

        app = Limited(explains, Limits(uploads_at_once=1, upload_seconds=0.05), Metrics())
        first = asyncio.create_task(asked_raw(app, whole))
        await arrived.wait()
        second = asyncio.create_task(asked_raw(app, whole))
        await asyncio.sleep(0.1)
        end.set()
        return await first, await second, app._uploading

    assert asyncio.run(main()) == (200, 200, 0)


def test_every_answer_bears_the_headers_and_only_assets_are_kept():
    requested = client(SafeHeaders(ECHO))
    page = requested.get("/").headers
    assert "frame-ancestors 'self'" in page["Content-Security-Policy"]
    assert "connect-src 'self'" in page["Content-Security-Policy"]
    assert page["X-Content-Type-Options"] == "nosniff"
    assert page["Referrer-Policy"] == "no-referrer"
    assert page["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in page["Permissions-Policy"]
    assert page["Cache-Control"] == "no-store"
    assert "Cache-Control" not in requested.get("/icu/assets/index.js").headers
    file = requested.get("/gradio_api/file=/tmp/x/assets/index.js").headers
    assert file["Cache-Control"] == "no-store"
    assert "sandbox" in file["Content-Security-Policy"]


HOSTS = ("127.0.0.1", "localhost", "::1")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7860", 200),
        ("LOCALHOST", 200),
        ("[::1]:7860", 200),
        ("rebound.example:7860", 421),
        ("127.0.0.1.rebound.example", 421),
        ("localhost@rebound.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_a_name_of_another_site_is_refused(host, status):
    requested = client(SameSite(ECHO, HOSTS, Metrics()))
    assert requested.get("/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:7860", 200),
        ("null", 403),
        ("http://elsewhere.example", 403),
        ("http://localhost:7861", 403),
        ("http://localhost:7860.elsewhere.example", 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_what_another_site_asks_for_is_refused(origin, status, method):
    requested = client(SameSite(ECHO, (), Metrics()), base_url="http://localhost:7860")
    answer = requested.request(method, "/", headers={"Origin": origin})
    assert (answer.status_code == 403) == (status == 403)


FORWARDED = {
    "X-Remote-User": "ada",
    "X-Forwarded-For": "203.0.113.9, 198.51.100.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "elsewhere.example",
    "X-Gradio-Server": "http://elsewhere.example",
}


def test_a_trusted_proxy_is_believed():
    app = Proxy(ECHO, ("10.0.0.0/24",), "X-Remote-User")
    seen = client(app, "10.0.0.8").get("/", headers=FORWARDED).json()
    assert (seen["user"], seen["client"], seen["scheme"]) == ("ada", "198.51.100.7", "https")
    assert not {name.lower() for name in FORWARDED} & set(seen["headers"])


@pytest.mark.parametrize("address", ["10.0.1.8", "testclient"])
def test_anyone_else_is_not_believed(address):
    app = Proxy(ECHO, ("10.0.0.0/24",), "X-Remote-User")
    seen = client(app, address).get("/", headers=FORWARDED).json()
    assert (seen["user"], seen["client"], seen["scheme"]) == (None, address, "http")
    assert not {name.lower() for name in FORWARDED} & set(seen["headers"])


def test_two_users_in_one_request_are_none():
    app = Proxy(ECHO, ("127.0.0.1",), "X-Remote-User")
    headers = [("X-Remote-User", "eve"), ("X-Remote-User", "ada")]
    assert client(app).get("/", headers=headers).json()["user"] is None


def test_what_is_no_address_lies_in_no_network():
    assert is_within("127.9.9.9", ("127.0.0.0/8",))
    assert not is_within("", ("0.0.0.0/0",))
    assert not is_within("::1", ("0.0.0.0/0",))
