"""Verb of the simulation: monitoring on simulated streams, with and without a shift."""

from pathlib import Path
from typing import Annotated

import typer

from cxr_mm.core.files import write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.models.registry import resolved
from monitoring.cli.options import Bundle

commands = typer.Typer()


@commands.command()
def scenarios(
    bundle: Bundle,
    out: Annotated[Path | None, typer.Option(help="JSON file with every figure.")] = None,
    studies: Annotated[int, typer.Option(help="Labelled studies at most.")] = 2200,
    references: Annotated[int, typer.Option(help="References frozen for shifts.")] = 10,
    streams: Annotated[int, typer.Option(help="Streams per shift, size and window.")] = 40,
    divisions: Annotated[int, typer.Option(help="References frozen for false alarms.")] = 40,
    undrifted: Annotated[int, typer.Option(help="Undrifted windows per division.")] = 10,
    baselines: Annotated[int, typer.Option(help="Windows per shift for Evidently's preset.")] = 20,
) -> None:
    """Simulate shifts of a task's studies: how often, how soon and why does monitoring alarm?"""
    from cxr_mm.models.bundle import load_bundle
    from monitoring.simulation.run import SimulationConfig, run, text_tables

    folder = resolved(bundle)
    task = load_bundle(folder).task
    config = SimulationConfig(studies, references, streams, divisions, undrifted, baselines)
    results = run(folder, TaskPaths(task.name), config, print)
    print("\n".join(text_tables(results)))
    if out is not None:
        write_json(out, results.facts())
        print(f"See {out}")
