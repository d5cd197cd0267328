"""`python -m app --bundle DIR`: serve bundles as web pages."""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.settings import DEFAULT_LOG, MAX_BATCH, Limits, Settings
from cxr_mm.core.allocator import keep_freed_memory
from cxr_mm.core.processes import errors_as_one_line
from cxr_mm.core.progress import heartbeat

# Read when torch is imported. Else the threads of a forward pass spin while they wait for one
# another, several times as long as the pass takes where other requests need the processors.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ARENAS = 2
"""Heaps that the threads share: with one each, memory grows for hours."""


def serve(
    bundle: Annotated[
        list[Path],
        typer.Option(
            help="Folder of a bundle, or a current.json, which is followed; may be repeated."
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    log: Annotated[str, typer.Option(help="SQLAlchemy URL of the prediction log.")] = DEFAULT_LOG,
    no_log: Annotated[bool, typer.Option("--no-log", help="Keep no prediction log.")] = False,
    site: Annotated[
        str, typer.Option(help="Hospital or department; its name goes into each record of the log.")
    ] = "",
    spool: Annotated[
        Path | None, typer.Option(help="Folder for predictions that wait for the database.")
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="Folder with manifest.csv whose studies fill the form.")
    ] = None,
    users: Annotated[Path | None, typer.Option(help="File of those who may sign in.")] = None,
    user_header: Annotated[
        str | None, typer.Option(help="Header in which a reverse proxy names the user.")
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None, typer.Option(help="Address or network of the proxy; may be repeated.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Host name that users type, or * for any; may be repeated."),
    ] = None,
    requests_per_minute: Annotated[
        int, typer.Option(min=1, help="Posts to a page, by a user.")
    ] = 600,
    uploads_per_minute: Annotated[int, typer.Option(min=1, help="Uploads, by a user.")] = 60,
    node: Annotated[
        Path | None,
        typer.Option(
            help="Node's file: its queue is shown, and gets what is stored at /dicom-web/studies."
        ),
    ] = None,
    max_batch: Annotated[
        int,
        typer.Option(
            min=1, max=64, help="Studies predicted in one forward pass, where several wait."
        ),
    ] = MAX_BATCH,
) -> None:
    """Serve bundles as web pages. Decision support for research only."""
    try:
        with errors_as_one_line():
            settings = Settings(
                bundles=tuple(bundle),
                host=host,
                port=port,
                log=None if no_log else log,
                site=site,
                spool=spool,
                examples=examples,
                users=users,
                user_header=user_header,
                trusted_proxies=tuple(trusted_proxy or ["127.0.0.1"]),
                allowed_hosts=tuple(allowed_host or ()),
                limits=Limits(requests_per_minute, uploads_per_minute),
                node=node,
                max_batch=max_batch,
            )
            _serve(settings)
    except KeyboardInterrupt:
        raise SystemExit(0) from None


def _serve(settings: Settings) -> None:
    with contextlib.ExitStack() as stack:
        with heartbeat(f"loading {', '.join(map(str, settings.bundles))}"):
            from app.calls import MOST_WAITING
            from app.metrics import Metrics  # slow to import, as are the others
            from app.server import application, build_pages, run, services_of, upload_folder
            from app.upload_cache import UploadCache
            from cxr_mm.imaging.decoder import Decoder
            from cxr_mm.imaging.decoder import Limits as DecoderLimits

            keep_freed_memory(ARENAS)
            metrics = Metrics(settings.root)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            uploads = stack.enter_context(upload_folder())
            decoder = stack.enter_context(Decoder(DecoderLimits(waiting=MOST_WAITING)))
            cache = stack.enter_context(contextlib.closing(UploadCache(decoder.read)))
            inbox = None
            if settings.node:
                from app.pacs.watch.inbox import QueueInbox

                inbox = stack.enter_context(QueueInbox(settings.node))
            services = services_of(settings, metrics, cache, inbox)
            pages = build_pages(services, settings, uploads, inbox)
            app = application(settings, pages, uploads, metrics)
        session = f"[{settings.host}]" if ":" in settings.host else settings.host
        for mounted in pages:
            print(
                f"{mounted.blocks.title}: http://{session}:{settings.port}{mounted.path}",
                flush=True,
            )
        run(app, pages, settings)


if __name__ == "__main__":
    cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    cli.command()(serve)
    cli()
