"""Sign-in: passwords, sessions, the page, and who is let past."""

import io
import re
import stat
import sys

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from app.metrics import Metrics
from app.security import auth
from app.security.auth import (
    LoginThrottle,
    Sessions,
    SharedSessions,
    SignIn,
    Users,
    add_user,
    hashed,
    main,
    matches,
    routes,
)
from cxr_mm.core.errors import InputError, ParamsError

PASSWORD = "correct horse battery"
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("users") / "users.txt"
    add_user(path, "ada@ward.example", PASSWORD)
    return path


def application(sessions):
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    def anything(request: Request):
        return {"user": request.scope["user"]}

    app.router.routes.insert(0, app.router.routes.pop())
    own = FastAPI()
    own.include_router(routes(sessions, Metrics()))
    own.mount("/", app)
    own.add_middleware(SignIn, sessions=sessions, refusals=Metrics(), programs=["/v1"])
    return own


@pytest.fixture
def sessions(file, tmp_path):
    return Sessions(Users(file), SharedSessions.begun(tmp_path))


@pytest.fixture
def visitor(sessions):
    return TestClient(application(sessions), follow_redirects=False)


def fill(visitor, name="ada@ward.example", password=PASSWORD, **changes):
    requested = visitor.get("/sign-in?next=/icu/")
    (token,) = re.findall(r'name="form" value="([^"]+)"', requested.text)
    (present,) = re.findall(r'name="next" value="([^"]+)"', requested.text)
    form = {"name": name, "password": password, "form": token, "next": present}
    return visitor.post("/sign-in", data=form | changes)


def test_a_password_matches_itself_and_nothing_else():
    stored = hashed(PASSWORD)
    assert matches(PASSWORD, stored)
    assert not matches(PASSWORD + " ", stored)
    assert not matches(PASSWORD, "$argon2id$v=19$m=8")
    assert PASSWORD not in stored
    assert stored != hashed(PASSWORD)


def test_the_file_is_its_owners_alone_and_keeps_the_others(tmp_path):
    path = tmp_path / "users.txt"
    add_user(path, "ada", PASSWORD)
    add_user(path, "grace", PASSWORD)
    first = path.read_text()
    add_user(path, "ada", PASSWORD + "!")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [line.split(":")[0] for line in path.read_text().splitlines()] == ["ada", "grace"]
    assert path.read_text() != first
    assert matches(PASSWORD + "!", Users(path).stored("ada"))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "password"), [("a:b", PASSWORD), ("", PASSWORD), ("a", "short")])
def test_names_and_passwords_that_will_not_do_leave_the_file_alone(tmp_path, name, password):
    path = tmp_path / "users.txt"
    with pytest.raises(InputError):
        add_user(path, name, password)
    assert not path.exists()


@pytest.mark.parametrize(
    "line", ["ada", "ada:plain", "ada:$argon2id$v=19$m=8,t=1,p=1$x", "a b:" + "x" * 9]
)
def test_a_line_that_is_no_user_is_named(tmp_path, line):
    path = tmp_path / "users.txt"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ParamsError, match="line 2"):
        Users(path)


def test_a_missing_file_is_said_with_the_remedy(tmp_path):
    with pytest.raises(ParamsError, match=r"python -m app\.security\.auth"):
        Users(tmp_path / "users.txt")


def test_the_command_reads_the_password_from_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\nmore\n"))
    main(tmp_path / "users.txt", "ada", stdin=True)
    assert matches(PASSWORD, Users(tmp_path / "users.txt").stored("ada"))


def test_the_command_asks_twice(tmp_path, monkeypatch, capsys):
    result = iter([PASSWORD, PASSWORD + "x"])
    monkeypatch.setattr(auth, "getpass", lambda prompt: next(result))
    with pytest.raises(SystemExit) as stop:
        main(tmp_path / "users.txt", "ada", stdin=False)
    assert stop.value.code == 2
    assert "differ" in capsys.readouterr().err
    assert not (tmp_path / "users.txt").exists()


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


def test_wrong_passwords_are_slowed_by_name_and_by_address():
    clock = Clock()
    slowed = LoginThrottle(clock)
    for _ in range(5):
        slowed.wrong("name ada", "address 10.0.0.1")
    assert slowed.wait("name ada", "address 10.0.0.1") == 0
    slowed.wrong("name ada", "address 10.0.0.1")
    assert slowed.wait("name ada", "address 10.0.0.9") == 2
    assert slowed.wait("name bob", "address 10.0.0.1") == 2
    assert slowed.wait("name bob", "address 10.0.0.9") == 0
    slowed.wrong("name ada")
    assert slowed.wait("name ada") == 4
    for _ in range(50):
        slowed.wrong("name ada")
    assert slowed.wait("name ada") == 60
    clock.now += 60
    assert slowed.wait("name ada") == 0
    slowed.right("name ada")
    slowed.wrong("name ada")
    assert slowed.wait("name ada") == 0


def test_a_session_holds_until_it_is_too_old(file, tmp_path):
    clock = Clock()
    sessions = Sessions(Users(file), SharedSessions.begun(tmp_path), clock)
    cookie = sessions.issue("ada@ward.example")
    clock.now += 12 * 3600 - 1
    assert sessions.user(cookie) == "ada@ward.example"
    clock.now += 1
    assert sessions.user(cookie) is None


def test_a_cookie_that_was_changed_or_made_elsewhere_is_nobodys(file, sessions, tmp_path):
    cookie = sessions.issue("ada@ward.example")
    (tmp_path / "other").mkdir()
    other = Sessions(Users(file), SharedSessions.begun(tmp_path / "other"))
    assert other.user(cookie) is None
    later = cookie.replace("|1", "|2", 1)
    for false in (later, cookie[:-1], cookie.replace("ada", "bob"), "", "|||", "é|1|2|3"):
        assert sessions.user(false) is None


def test_a_session_ends_when_it_is_ended_and_when_the_password_changes(tmp_path):
    path = tmp_path / "users.txt"
    add_user(path, "ada", PASSWORD)
    sessions = Sessions(Users(path), SharedSessions.begun(tmp_path))
    first, second = sessions.issue("ada"), sessions.issue("ada")
    sessions.end(first)
    assert sessions.user(first) is None
    assert sessions.user(second) == "ada"
    add_user(path, "ada", PASSWORD + "!")
    assert sessions.user(second) is None


def test_one_who_signs_in_arrives_where_they_wanted_to_go_and_can_sign_out(visitor):
    assert visitor.get("/icu/", headers=HTML).headers["Location"] == "/sign-in?next=/icu/"
    assert visitor.get("/icu/config").status_code == 401
    answer = fill(visitor)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/icu/")
    assert visitor.get("/icu/config").json() == {"user": "ada@ward.example"}
    stolen = dict(visitor.cookies)
    assert "form" in visitor.get("/sign-out").text
    assert visitor.post("/sign-out").headers["Location"] == "/sign-in"
    assert visitor.get("/icu/config").status_code == 401
    visitor.cookies.update(stolen)
    assert visitor.get("/icu/config").status_code == 401


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(sessions):
    secure = TestClient(application(sessions), base_url="https://a", follow_redirects=False)
    plain = TestClient(application(sessions), base_url="http://a", follow_redirects=False)

    def marks(visitor):
        cookie = fill(visitor).headers.get_list("Set-Cookie")[0].lower()
        assert cookie.startswith("cxr_mm_session=")
        return set(cookie.split("; "))

    assert {"httponly", "samesite=lax", "secure", "path=/"} <= marks(secure)
    assert "secure" not in marks(plain)


@pytest.mark.parametrize(
    ("name", "password"), [("ada@ward.example", "wrong"), ("bob", PASSWORD), ("", "")]
)
def test_a_wrong_name_and_a_wrong_password_are_told_apart_by_nobody(visitor, name, password):
    answer = fill(visitor, name, password)
    assert answer.status_code == 401
    assert "Name or password is wrong." in answer.text
    assert "cxr_mm_session" not in visitor.cookies


def test_after_too_many_wrong_passwords_even_the_right_one_waits(visitor):
    statuses = [fill(visitor, password="wrong").status_code for _ in range(6)]
    assert statuses == [401] * 6
    assert fill(visitor).status_code == 429


@pytest.mark.parametrize("token", ["", "forged"])
def test_a_form_that_another_site_fills_signs_nobody_in(visitor, token):
    assert fill(visitor, form=token).status_code == 403
    assert "cxr_mm_session" not in visitor.cookies


@pytest.mark.parametrize(
    "there",
    ["https://evil.example", "//evil.example", "/\\evil.example", "/a\r\nSet-Cookie: a=b", "icu"],
)
def test_nobody_is_sent_to_another_site(visitor, there):
    assert fill(visitor, next=there).headers["Location"] == "/"


def test_the_page_needs_no_script_and_labels_its_fields(visitor):
    page = visitor.get('/sign-in?next=/"><script>')
    assert "<script" not in page.text
    assert "script" not in page.headers["Content-Security-Policy"]
    assert '<html lang="en">' in page.text
    for field in ("name", "password"):
        assert f'<label for="{field}">' in page.text
        assert f'id="{field}"' in page.text
    assert 'role="alert"' in fill(visitor, password="wrong").text


def test_where_a_proxy_signs_in_nobody_else_can():
    visitor = TestClient(application_behind_proxy())
    assert visitor.get("/icu/", headers=HTML).status_code == 401
    assert visitor.get("/sign-in").status_code == 401


def application_behind_proxy():
    app = FastAPI()
    app.add_middleware(SignIn, sessions=None, refusals=Metrics())
    return app


def test_only_this_machine_reads_the_figures_unknown(visitor, sessions):
    app = application(sessions)
    assert visitor.get("/metrics").status_code == 401
    assert TestClient(app, client=("127.0.0.1", 1)).get("/metrics").status_code == 401

    async def direct(scope, receive, send):
        await app(scope | {"direct": True}, receive, send)

    assert TestClient(direct, client=("127.0.0.1", 1)).get("/metrics").status_code == 200
    assert TestClient(direct, client=("10.0.0.1", 1)).get("/metrics").status_code == 401


def asked(visitor, password=PASSWORD, path="/v1/model", name="ada@ward.example", **headers):
    return visitor.get(path, auth=(name, password), headers=headers)


def test_a_program_may_send_its_password_with_each_request(visitor, monkeypatch):
    answer = visitor.get("/v1/model", headers=HTML)
    assert (answer.status_code, "Location" in answer.headers) == (401, False)
    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
    checked = []
    monkeypatch.setattr(auth, "matches", lambda *given: checked.append(given) or matches(*given))
    for _ in range(3):
        assert asked(visitor).json() == {"user": "ada@ward.example"}
    assert len(checked) == 1  # Argon2 takes 0.05 s
    assert "set-cookie" not in asked(visitor).headers
    assert asked(visitor, path="/icu/config").status_code == 401
    for header in ("Basic", "Basic é", "Basic !!!", "Bearer YWRhOng=", "Basic OjE="):
        answer = visitor.get("/v1/model", headers={"Authorization": header.encode()})
        assert answer.status_code == 401, header


def test_wrong_passwords_of_programs_are_throttled_with_those_of_the_form(visitor):
    codes = [asked(visitor, f"wrong {n}").status_code for n in range(7)]
    assert codes == [401] * 6 + [429]
    assert asked(visitor).status_code == 429
    assert int(asked(visitor).headers["Retry-After"]) >= 1
    assert fill(visitor).status_code == 429


def test_processes_of_one_server_know_the_same_sessions(file, tmp_path):
    clock = Clock()
    shared = SharedSessions.begun(tmp_path)
    one, other = (Sessions(Users(file), shared, clock) for _ in range(2))
    first, second = one.issue("ada@ward.example"), one.issue("ada@ward.example")
    one.end(first)
    assert other.user(first) is None
    assert other.user(second) == "ada@ward.example"
    clock.now += 12 * 3600 + 1
    later = other.issue("ada@ward.example")
    other.end(later)
    assert [one.user(cookie) for cookie in (first, second, later)] == [None] * 3
    assert len(list(shared.ended.iterdir())) == 1  # the first is too old, ended or not


def test_a_known_password_ends_when_it_changes(tmp_path):
    path = tmp_path / "users.txt"
    add_user(path, "ada", PASSWORD)
    visitor = TestClient(application(Sessions(Users(path), SharedSessions.begun(tmp_path))))
    assert asked(visitor, name="ada").status_code == 200
    add_user(path, "ada", PASSWORD + "!")
    assert asked(visitor, name="ada").status_code == 401
    assert asked(visitor, PASSWORD + "!", name="ada").status_code == 200
