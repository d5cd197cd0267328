"""Server: the pages of all bundles in one FastAPI application, behind sign-in and limits."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp

from app import examples as bundled
from app import page, style
from app.counters import CONTENT_TYPE, CountedRoom, Counters
from app.following import Followed
from app.gate import Gate
from app.health import report_routes
from app.limits import Limited, Proxy, SafeHeaders, SameSite
from app.reading import ReadFilm, ReadingRoom
from app.scratch import scratch_folder
from app.settings import Settings
from app.sign_in import HEALTH, METRICS, SIGN_OUT, Sessions, SignIn, plain_page, routes
from app.users import Users
from cxr_mm.errors import LogError, ParamsError
from cxr_mm.inference import load_predictor
from cxr_mm.models.pointer import is_pointer
from cxr_mm.prediction_log import PredictionLog, open_spooled_log
from cxr_mm.prediction_log.database import sqlite_file

SESSIONS_KEPT = 200
STOP_SECONDS = 3
THREADS = 8
"""Of a page: each one that has run a network keeps memory of its own for it."""
UPLOADS_VARIABLE = "GRADIO_TEMP_DIR"


@dataclass(frozen=True)
class Place:
    """One page: its path, `/` or `/TASK`, and what stands there."""

    path: str
    room: ReadingRoom
    blocks: gr.Blocks

    @property
    def name(self) -> str:
        """Of the page in the addresses of its reports."""
        return self.path.strip("/") or self.room.task.name


def rooms_of(settings: Settings, counters: Counters, read: ReadFilm) -> list[ReadingRoom]:
    """A room for each bundle, all with one log and one way to read films.

    Raises:
        BundleError: a bundle is damaged, foreign or incomplete.
        LogError: the log cannot be opened.
    """
    predictors = [Followed(b) if is_pointer(b) else load_predictor(b) for b in settings.bundles]
    log = open_spooled_log(settings.log, settings.spool) if settings.log else None
    return [CountedRoom(predictor, log, counters, read) for predictor in predictors]


def paths_of(tasks: Sequence[str]) -> list[str]:
    """Where the page of each task stands: `/`, or `/TASK`, `/TASK-2` where there are several."""
    if len(tasks) == 1:
        return ["/"]
    earlier = [tasks[:i].count(task) for i, task in enumerate(tasks)]
    return [f"/{t}-{n + 1}" if n else f"/{t}" for t, n in zip(tasks, earlier, strict=True)]


def places_of(rooms: Sequence[ReadingRoom], settings: Settings, uploads: Path) -> list[Place]:
    """The pages: the first with the examples that are named, those of made-up data with phantoms.

    Args:
        uploads: what `upload_folder` gave.

    Raises:
        ManifestError: the folder of examples has no manifest, or a column is missing.
    """
    paths = paths_of([room.task.name for room in rooms])
    titles = [(room.task.title, f"{path}/") for path, room in zip(paths, rooms, strict=True)]
    out = [("Sign out", SIGN_OUT)] if settings.users else []
    places: list[Place] = []
    for path, room in zip(paths, rooms, strict=True):
        folder = None if places else settings.examples
        if folder is None and room.task.synthetic:
            folder = bundled.phantoms(uploads / "examples")
        rows = bundled.read(folder, room.task) if folder else None
        others = [other for other in titles if other[1] != f"{path}/"] + out
        blocks = page.build(room, rows, others, path.strip("/") or None)
        places.append(Place(path, room, blocks))
    return places


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder that Gradio keeps uploads in, and that lives no longer than the server."""
    before = os.environ.get(UPLOADS_VARIABLE)
    with scratch_folder() as folder:
        uploads = folder / "uploads"
        uploads.mkdir()
        os.environ[UPLOADS_VARIABLE] = str(uploads)
        try:
            yield uploads
        finally:
            os.environ.pop(UPLOADS_VARIABLE)
            os.environ.update({UPLOADS_VARIABLE: before} if before else {})


def application(
    settings: Settings, places: Sequence[Place], uploads: Path, counters: Counters
) -> ASGIApp:
    """All pages, the sign-in, the state of health and the figures, as one ASGI application.

    Args:
        uploads: what `upload_folder` gave; it must be there when the pages are built.

    Raises:
        ParamsError: the users file cannot be read.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    sessions = Sessions(Users(settings.users)) if settings.users else None
    _own_routes(app, places, counters)
    if sessions:
        app.include_router(routes(sessions, counters))
    reports = report_routes({place.name: place.room for place in places}, settings.root)
    app.router.routes.extend(reports)
    for place in places:
        _mount(app, place, settings)
        counters.watch_queue(place.path, place.blocks._queue.__len__)
        counters.watch_verdict(place.room)
    # The last one added is asked first.
    app.add_middleware(
        Gate,
        places=[place.path for place in places],
        others=[route.path for route in reports],
        uploads=uploads,
    )
    app.add_middleware(Limited, limits=settings.limits, counters=counters)
    if settings.demands_sign_in:
        app.add_middleware(SignIn, sessions=sessions)
    app.add_middleware(SameSite, hosts=settings.known_hosts, counters=counters)
    app.add_middleware(Proxy, trusted=settings.trusted_proxies, user_header=settings.user_header)
    app.add_middleware(SafeHeaders)
    return app


def _mount(app: FastAPI, place: Place, settings: Settings) -> None:
    blocks = place.blocks
    blocks.state_session_capacity = SESSIONS_KEPT
    blocks.max_threads = blocks._queue.max_thread_count = THREADS
    gr.mount_gradio_app(
        app,
        blocks,
        place.path,
        server_name=settings.host,
        server_port=settings.port,
        auth_dependency=_user if settings.demands_sign_in else None,
        theme=style.theme(),
        css=style.CSS,
        js=style.ON_LOAD,
        ssr_mode=False,
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        footer_links=[],
        allowed_paths=[],
        max_file_size=settings.limits.file_bytes,
    )
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    blocks.app = mounted.app
    # Gradio checks the paths of files that it is handed only once a page counts as launched, and
    # one that is mounted never does.
    blocks.has_launched = True


def _user(request: Request) -> str | None:
    return request.scope.get("user")


def _own_routes(app: FastAPI, places: Sequence[Place], counters: Counters) -> None:
    @app.get(HEALTH)
    def health() -> Response:
        log = places[0].room.log
        writable = None if log is None else log_is_writable(log)
        models = [_model(place.room) for place in places]
        ok = writable is not False
        said = {"ok": ok, "models": models, "log_writable": writable}
        return JSONResponse(said, 200 if ok else 503)

    @app.get(METRICS)
    def metrics() -> Response:
        return Response(counters.text(), media_type=CONTENT_TYPE)

    if len(places) > 1:

        @app.get("/")
        def choose() -> Response:
            links = "".join(
                f'<li><a href="{place.path}/">{escape(place.room.task.title)}</a> '
                f"({escape(place.room.bundle.name)})</li>"
                for place in places
            )
            return plain_page("Models", f"<ul>{links}</ul>")


def _model(room: ReadingRoom) -> dict[str, str]:
    """The model that serves, and why it is not the one pointed to where it is not."""
    bundle, trouble = room.bundle, room.trouble
    said = {"task": bundle.task.name, "model": bundle.name, "digest": bundle.digest}
    return said | {"trouble": trouble} if trouble else said


def log_is_writable(log: PredictionLog) -> bool:
    """Whether the next prediction can be kept, as far as can be told without writing one."""
    file = sqlite_file(log.url)
    if file and not all(os.access(path, os.W_OK) for path in (file, file.parent)):
        return False
    try:
        log.add_records([])
    except LogError:
        return False
    return not log.trouble


class _Server(uvicorn.Server):
    """Ends the pages' endless answers first, so that it need not wait for them."""

    def __init__(self, config: uvicorn.Config, places: Sequence[Place]) -> None:
        super().__init__(config)
        self._places = places

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for place in self._places:
            place.blocks._queue.close()
            place.blocks.app.stop_event.set()
        await super().shutdown(sockets)


def run(app: ASGIApp, places: Sequence[Place], settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises:
        ParamsError: the address or the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise ParamsError(
            f"{settings.host} port {settings.port}: {os.strerror(error.errno or 0).lower()}",
            field="--port",
            remedy="Choose another port, or end what listens there",
        ) from error
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # `Proxy` believes only whom it is told to
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    with listening:
        _Server(config, places).run(sockets=[listening])
