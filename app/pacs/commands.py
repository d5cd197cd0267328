"""`cxr-mm pacs`: run the node beside the PACS, look into its queue, and check its file."""

import contextlib
import json
import logging
import signal
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mm.core.allocator import keep_freed_memory, without_collection
from cxr_mm.core.errors import ParamsError
from cxr_mm.core.progress import announce

if TYPE_CHECKING:
    from app.pacs.queue import Queue
    from app.pacs.settings import NodeSettings

ARENAS = 2
"""Heaps that the threads share: with one each, memory grows for hours."""
commands = typer.Typer(
    no_args_is_help=True,
    help="A node beside the PACS: radiographs in, answers out. Decision support for research only.",
)
File = Annotated[Path, typer.Argument(help="YAML file of the node.")]


@commands.command()
def run(file: File) -> None:
    """Receive, answer and send until a signal ends it; nothing is lost by that."""
    with without_collection():
        from app.pacs.node import run_node

    settings = _settings(file)
    announce(f"{settings.ae_title} starts")
    keep_freed_memory(ARENAS)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for chatty in ("highdicom", "pynetdicom"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)  # they quote headers and messages
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def ready(port: int) -> None:
        typer.echo(f"{settings.ae_title} listens on {settings.host} port {port}")

    run_node(settings, stop, ready)


@commands.command()
def status(file: File) -> None:
    """Print rows by state, deliveries by destination and counts of refusals, as JSON."""
    from app.pacs.queue.upkeep import status as of

    with _queue(file) as queue:
        typer.echo(json.dumps(of(queue), indent=2))


@commands.command()
def queue(
    file: File, last: Annotated[int, typer.Option(min=1, help="How many rows.")] = 20
) -> None:
    """Print the newest received images, a line of JSON each."""
    from app.pacs.queue.upkeep import rows

    with _queue(file) as opened:
        for row in rows(opened, last):
            typer.echo(json.dumps(row | {"received_at": row["received_at"].isoformat()}))


@commands.command()
def retry(file: File) -> None:
    """Try again what is dead or has failed."""
    with _queue(file) as opened:
        typer.echo(f"{opened.retry()} tried again")


@commands.command()
def replay(
    file: File,
    since: Annotated[str, typer.Option(help="Moment as 2026-03-01T08:00+00:00.")],
) -> None:
    """Answer images again that are still on disk, with the models that serve now."""
    with _queue(file) as opened:
        typer.echo(f"{opened.replay(_moment(since))} answered again")


@commands.command("send-test")
def send_test(file: File) -> None:
    """Ask every peer for an echo, and which objects it takes; nothing is stored with it."""
    from app.pacs.delivery.fhir import ask_for_fhir
    from app.pacs.dicomweb.poll import ask_for_studies
    from app.pacs.sender import ask_for_echo

    settings = _settings(file)
    results = {
        (peer.name, has): ask(settings, peer)
        for ask, has in (
            (ask_for_echo, "ae_title"),
            (ask_for_studies, "web"),
            (ask_for_fhir, "fhir"),
        )
        for peer in settings.peers
        if getattr(peer, has) is not None
    }
    for (name, _), result in results.items():
        typer.echo(f"{name}: {result.text}")
    if not all(result.ok for result in results.values()):
        raise typer.Exit(1)


@commands.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    studies: Annotated[int, typer.Option(min=1, max=10_000, help="How many studies.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Others give other studies.")] = 7,
) -> None:
    """Write synthetic radiographs as DICOM files, to try the node with."""
    from cxr_mm.data.synthetic.dicom import write_dicom
    from cxr_mm.data.synthetic.population import SynthesisSpec

    if folder.exists():
        raise ParamsError(f"{folder} exists", field="FOLDER", remedy="Name one that does not")
    spec = SynthesisSpec(studies=studies, seed=seed, image_absent=0)
    for path in write_dicom(folder, spec, datetime.now()):
        typer.echo(path)


@commands.command("check-config")
def check_config(file: File) -> None:
    """Check the node's file, its certificates, secrets, drivers and bundles."""
    from app.pacs.context.queries import open_sources

    settings = _settings(file)
    if context := settings.context:
        for source in open_sources(context.sql, context.fhir_servers, context.zone):
            source.close()
    typer.echo(
        f"{file}: {settings.ae_title} on {settings.host} port {settings.port}, "
        f"{len(settings.peers)} peers, {len(settings.rules)} rules, "
        f"{'TLS' if settings.tls else 'no TLS'}"
    )


def _settings(file: Path) -> "NodeSettings":
    from app.pacs.settings import load_node_settings

    return load_node_settings(file)


@contextlib.contextmanager
def _queue(file: Path) -> "Iterator[Queue]":
    from app.pacs.queue import Queue

    settings = _settings(file)
    with contextlib.closing(Queue(settings.queue_url, settings.limits.longest_pause)) as opened:
        yield opened


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ParamsError(
            f"{text!r} is no moment with a UTC offset",
            field="--since",
            remedy="Write it as 2026-03-01T08:00+00:00",
        )
    return moment
