"""`python -m app --bundle DIR`: serve bundles as web pages."""

import os
from pathlib import Path
from typing import Annotated

import typer

from app.processes import serve_all, serve_one
from app.settings import DEFAULT_LOG, MAX_BATCH, Limits, Settings
from cxr_mm.core.processes import errors_as_one_line

# Read when torch is imported. Else the threads of a forward pass spin while they wait for one
# another, several times as long as the pass takes where other requests need the processors.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


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
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="Processes, each on a port from --port on, for a proxy to share users out."
        ),
    ] = 1,
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
                processes=processes,
            )
            if processes > 1:
                serve_all(settings)
            serve_one(settings)
    except KeyboardInterrupt:
        raise SystemExit(0) from None


if __name__ == "__main__":
    cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    cli.command()(serve)
    cli()
