"""Server: the pages of all bundles in one FastAPI application, behind sign-in and limits."""

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp

from app.batching import load_batching_predictor
from app.inbox import Inbox
from app.metrics import CONTENT_TYPE, Metrics
from app.model_watcher import load_models
from app.monitoring_reports import report_routes
from app.rest import routes as rest
from app.rest.problems import Problems
from app.security.auth import (
    HEALTH,
    METRICS,
    SIGN_OUT,
    Sessions,
    SharedSessions,
    SignIn,
    Users,
    plain_page,
    routes,
)
from app.security.middleware import REST, Limited, Proxy, SafeHeaders, SameSite
from app.security.route_guard import Gate
from app.security.scratch_folder import scratch_folder
from app.service import AT_ONCE, InferenceService, InstrumentedService
from app.settings import Settings
from app.ui import gr, page, theme
from app.ui import study_form as bundled
from app.upload_cache import UploadCache
from cxr_mm.core.errors import LogError, ParamsError
from cxr_mm.prediction_log import PredictionLog, open_spooled_log
from cxr_mm.prediction_log.database import sqlite_file

if TYPE_CHECKING:
    from app.pacs.dicomweb.stow_in import Store

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported


SESSIONS_KEPT = 200
STOP_SECONDS = 3
THREADS = 6
"""Of a page, besides those of its predictions: each one that has run a network keeps memory of its
own for it."""
UPLOADS_VARIABLE = "GRADIO_TEMP_DIR"


@dataclass(frozen=True)
class MountedPage:
    """One page: its path, `/` or `/TASK`, and what stands there."""

    path: str
    service: InferenceService
    blocks: gr.Blocks

    @property
    def name(self) -> str:
        """Of the page in the addresses of its reports."""
        return self.path.strip("/") or self.service.task.name


def services_of(
    settings: Settings, metrics: Metrics, uploads: UploadCache, inbox: Inbox | None = None
) -> list[InferenceService]:
    """A service for each bundle, all with one log and one cache of uploads.

    Args:
        inbox: queue of a node, whose studies are not logged again.

    Raises:
        BundleError: a bundle is damaged, foreign or incomplete.
        LogError: the log cannot be opened.
    """
    models = load_models(
        settings.bundles, partial(load_batching_predictor, max_batch=settings.max_batch)
    )
    log = open_spooled_log(settings.log, settings.spool, settings.site) if settings.log else None
    of_node = inbox.has if inbox else lambda _study_id: False
    at_once = max(AT_ONCE, settings.max_batch)
    return [
        InstrumentedService(model, log, metrics, uploads, of_node=of_node, at_once=at_once)
        for model in models
    ]


def paths_of(tasks: Sequence[str]) -> list[str]:
    """Where the page of each task stands: `/`, or `/TASK`, `/TASK-2` where there are several."""
    if len(tasks) == 1:
        return ["/"]
    prior = [tasks[:i].count(task) for i, task in enumerate(tasks)]
    return [f"/{t}-{n + 1}" if n else f"/{t}" for t, n in zip(tasks, prior, strict=True)]


def build_pages(
    services: Sequence[InferenceService],
    settings: Settings,
    uploads: Path,
    inbox: Inbox | None = None,
) -> list[MountedPage]:
    """The pages: the first with the examples that are named, those of made-up data with phantoms.

    Args:
        uploads: what `upload_folder` gave.
        inbox: queue of a node, which each page shows.

    Raises:
        ManifestError: the folder of examples has no manifest, or a column is missing.
    """
    paths = paths_of([service.task.name for service in services])
    titles = [
        (service.task.title, f"{path}/") for path, service in zip(paths, services, strict=True)
    ]
    out = [("Sign out", SIGN_OUT)] if settings.users else []
    pages: list[MountedPage] = []
    for path, service in zip(paths, services, strict=True):
        folder = None if pages else settings.examples
        if folder is None and service.task.synthetic:
            folder = bundled.phantoms(uploads / "examples")
        rows = bundled.read(folder, service.task) if folder else None
        others = [other for other in titles if other[1] != f"{path}/"] + out
        blocks = page.build(service, rows, others, path.strip("/") or None, inbox)
        pages.append(MountedPage(path, service, blocks))
    return pages


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
    settings: Settings,
    pages: Sequence[MountedPage],
    uploads: Path,
    metrics: Metrics,
    shared: SharedSessions | None = None,
) -> ASGIApp:
    """All pages, the sign-in, the state of health and the figures, as one ASGI application.

    Args:
        uploads: what `upload_folder` gave; it must be there when the pages are built.
        shared: what it knows of sessions in common with other processes; None for a server of one.

    Raises:
        ParamsError: the users file or the node's file cannot be read.
        StorageError, LogError: storage or queue of the node cannot be opened.
    """
    store = _store(settings)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=_closing(store))
    sessions = None
    if settings.users:
        users = Users(settings.users)
        sessions = Sessions(users, shared or SharedSessions.begun(uploads.parent))
    _own_routes(app, pages, metrics)
    if sessions:
        app.include_router(routes(sessions, metrics))
    reports = report_routes({mounted.name: mounted.service for mounted in pages}, settings.root)
    app.router.routes.extend(reports)
    app.router.routes.extend(store.routes() if store else [])
    stores = [store.path] if store else []
    api = rest.Api({mounted.name: mounted.service for mounted in pages}, settings.limits)
    app.mount(REST, rest.application(api))
    metrics.watch_queue(REST, lambda: api.pending)
    for mounted in pages:
        _mount(app, mounted, settings)
        metrics.watch_queue(mounted.path, mounted.blocks._queue.__len__)
        metrics.watch_verdict(mounted.service)
    # The last one added is asked first.
    app.add_middleware(
        Gate,
        pages=[mounted.path for mounted in pages],
        others=[*(route.path for route in reports), *rest.READ],
        uploads=uploads,
        stores=[*stores, *rest.POSTED],
    )
    holding = [*stores, *rest.STUDIES]
    app.add_middleware(Limited, limits=settings.limits, refusals=metrics, uploads=holding)
    if settings.demands_sign_in:
        programs = [*stores, REST]
        app.add_middleware(SignIn, sessions=sessions, refusals=metrics, programs=programs)
    app.add_middleware(SameSite, hosts=settings.known_hosts, refusals=metrics)
    app.add_middleware(Proxy, trusted=settings.trusted_proxies, user_header=settings.user_header)
    app.add_middleware(Problems)
    app.add_middleware(SafeHeaders)
    return app


def _store(settings: Settings) -> "Store | None":
    if settings.node is None:
        return None
    from app.pacs.dicomweb.stow_in import Store  # with the node's libraries

    return Store(settings.node)


def _closing(store: "Store | None") -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Lifespan of an application that closes the store at its end."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with store or contextlib.nullcontext():
            yield

    return lifespan


def _mount(app: FastAPI, mounted_page: MountedPage, settings: Settings) -> None:
    blocks = mounted_page.blocks
    blocks.state_session_capacity = SESSIONS_KEPT
    threads = THREADS + mounted_page.service.at_once
    blocks.max_threads = blocks._queue.max_thread_count = threads
    gr.mount_gradio_app(
        app,
        blocks,
        mounted_page.path,
        server_name=settings.host,
        server_port=settings.port,
        auth_dependency=_user if settings.demands_sign_in else None,
        theme=theme.theme(),
        css=theme.CSS,
        js=theme.ON_LOAD,
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


def _own_routes(app: FastAPI, pages: Sequence[MountedPage], metrics: Metrics) -> None:
    @app.get(HEALTH)
    def health() -> Response:
        log = pages[0].service.log
        writable = None if log is None else log_is_writable(log)
        models = [_model(mounted.service) for mounted in pages]
        ok = writable is not False
        result = {"ok": ok, "models": models, "log_writable": writable}
        return JSONResponse(result, 200 if ok else 503)

    @app.get(METRICS)
    def figures() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    if len(pages) > 1:

        @app.get("/")
        def choose() -> Response:
            models = [
                (f"{page.path}/", page.service.task.title, page.service.bundle.name)
                for page in pages
            ]
            return plain_page("models.html", title="Models", models=models)


def _model(service: InferenceService) -> dict[str, str]:
    """The model that serves, and why it is not the one pointed to where it is not."""
    bundle, trouble = service.bundle, service.trouble
    result = {"task": bundle.task.name, "model": bundle.name, "digest": bundle.digest}
    return result | {"trouble": trouble} if trouble else result


def log_is_writable(log: PredictionLog) -> bool:
    """Whether the next prediction can be logged, as far as that shows without writing one."""
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

    def __init__(self, config: uvicorn.Config, pages: Sequence[MountedPage]) -> None:
        super().__init__(config)
        self._pages = pages

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for mounted in self._pages:
            mounted.blocks._queue.close()
            mounted.blocks.app.stop_event.set()
        await super().shutdown(sockets)


def run(app: ASGIApp, pages: Sequence[MountedPage], settings: Settings) -> None:
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
        proxy_headers=False,  # `Proxy` has its own list of trusted addresses
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    with listening:
        _Server(config, pages).run(sockets=[listening])
