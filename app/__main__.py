"""`python -m app --bundle DIR`: serve one bundle as a web page on this machine."""

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
import typer

from app import examples as bundled
from app import page, style
from app.reading import ReadingRoom
from cxr_mm.errors import CxrError, ParamsError
from cxr_mm.inference import load_predictor
from cxr_mm.prediction_log import open_log

LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEFAULT_LOG = "sqlite:///logs/predictions.db"


def serve(
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    host: Annotated[str, typer.Option(help="Address to listen on; loopback only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    log: Annotated[str, typer.Option(help="SQLAlchemy URL of the prediction log.")] = DEFAULT_LOG,
    no_log: Annotated[bool, typer.Option("--no-log", help="Keep no prediction log.")] = False,
    examples: Annotated[
        Path | None, typer.Option(help="Folder with manifest.csv whose studies fill the form.")
    ] = None,
) -> None:
    """Serve one bundle as a web page on this machine. Decision support for research only."""
    try:
        _refuse_others(host)
        predictor = load_predictor(bundle)
        room = ReadingRoom(predictor, None if no_log else open_log(log))
        rows = bundled.read(examples, room.task) if examples else None
    except CxrError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    # What is uploaded lives no longer than the server.
    with tempfile.TemporaryDirectory(prefix="cxr-mm-app-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        _launch(page.build(room, rows), host, port)


def _refuse_others(host: str) -> None:
    if host not in LOOPBACK:
        raise ParamsError(
            f"{host} can be reached from other machines, and this page has no sign-in yet",
            field="--host",
            remedy="Listen on 127.0.0.1 and put a proxy that asks for a sign-in before it",
        )


def _launch(blocks: gr.Blocks, host: str, port: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"{blocks.title}: http://{host}:{port} (stop with Ctrl-C)", flush=True)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            theme=style.theme(),
            css=style.CSS,
            js=style.ON_LOAD,
            quiet=True,
            share=False,
            ssr_mode=False,
            show_error=False,
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            footer_links=[],
            allowed_paths=[],
            max_file_size=page.UPLOAD_LIMIT,
            state_session_capacity=200,
        )
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    cli.command()(serve)
    cli()
