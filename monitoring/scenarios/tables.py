"""Tables of scenarios as text."""

from collections.abc import Iterator

from monitoring.scenarios.run import Results


def text_tables(results: Results) -> Iterator[str]:
    """Lines of every table."""
    yield (
        f"{results.task}: {results.studies} studies; references of {results.reference}, "
        f"{results.bank} studies to draw windows from"
    )
    yield "\nUndrifted windows that alarm"
    for quiet in results.false_alarms:
        labelled = "labelled by half" if quiet.labels else "unlabelled"
        yield (
            f"  {quiet.window:>5} {quiet.drawn:<9} {labelled:<16} {_percent(quiet.rate)} "
            f"[{_percent(quiet.low)}, {_percent(quiet.high)}] of {quiet.windows}"
        )
    yield "\nShifts: alarm in the first window, within two, within five; delay; rightly blamed"
    for found in results.power:
        yield (
            f"  {found.shift:<18} {found.size:<7} {found.window:>5}  "
            f"{_percent(found.within[0])} {_percent(found.within[1])} {_percent(found.within[-1])}"
            f"  {found.delay:>4.0f}  {_percent(found.right)}  {found.blamed}"
        )
    yield "\nShifts that grow over ten windows: median windows until the alarm"
    for grown in results.slow:
        yield f"  {grown.shift:<18} {grown.window:>5}  {grown.delay:.0f}"
    yield "\nEvidently's DataDriftPreset at its defaults, windows of 200: half of the columns, any"
    for rival in results.rivals:
        yield f"  {rival.shift:<18} {rival.size:<7} {_percent(rival.half)} {_percent(rival.any)}"


def _percent(share: float) -> str:
    return "   – " if share != share else f"{100 * share:>3.0f} %"
