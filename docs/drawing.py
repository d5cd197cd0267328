"""Draw the README's picture of the system, `docs/system.svg`, and that of the layers of the code,
`docs/architecture.svg`: `python docs/drawing.py`.

The stages are those of dvc.yaml, so that the picture cannot fall behind them; a test compares the
layers with the contract in pyproject.toml.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from markupsafe import escape

DOCS = Path(__file__).parent
WIDTH, HEIGHT = 1000, 424
INK, LINE, PAPER = "#17324d", "#5b7a99", "#ffffff"
GIVEN, MADE, DONE, AFTER = "#e8f1f8", "#fdf3dc", "#e3f3e8", "#f3e8f5"
"""Fills: what users have, stages, ways to an answer, what watches them."""
HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
    'aria-label="{label}" font-family="system-ui, sans-serif" font-size="14" text-anchor="middle">'
    f'{{marker}}\n<rect width="{{width}}" height="{{height}}" fill="{PAPER}"/>'
)
SYSTEM = (
    "Images, a table and notes go through the stages to a bundle; the page, the command line, "
    "Python, HTTP and a node beside the PACS answer with it; the log of answers is watched, and an "
    "alarm leads to a new model"
)
LAYERS: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (
        ("app", "page, API, server, sign-in", AFTER),
        ("app.pacs", "node beside a PACS", AFTER),
        ("monitoring", "drift, alerts, retraining", AFTER),
    ),
    (("cli", "one verb per stage or use", DONE), ("api", "what import cxr_mm offers", DONE)),
    (("export", "ONNX, Hugging Face Hub", DONE),),
    (
        ("training", "image encoder, embeddings, fusion", MADE),
        ("evaluation", "metrics, subgroups, card", MADE),
        ("explain", "attributions, faithfulness", MADE),
    ),
    (("inference", "predictor, shares, score", MADE),),
    (("models", "encoders, fusion, calibration, bundle", MADE),),
    (("data", "sources, manifest, split, studies", GIVEN),),
    (
        ("imaging", "file → radiograph", GIVEN),
        ("prediction_log", "schema, chain, spool, erasure", GIVEN),
        ("alerts", "webhook, mail", GIVEN),
    ),
    (("core", "task, study, prediction, record, config", GIVEN),),
)
"""From the top down: name, what is in it, fill. Imports run down only."""
ROW = 80
MARKER = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>'
)


def box(x: int, y: int, width: int, height: int, lines: Sequence[str], fill: str) -> str:
    """A box with its upper left corner at (x, y), and its lines of text, the first in bold."""
    top = y + height / 2 - 9 * (len(lines) - 1) + 5
    styles = ['font-weight="600"', *['font-size="12"'] * len(lines)]
    words = "".join(
        f'<text x="{x + width / 2:g}" y="{top + 18 * number:g}" fill="{INK}" {style}>'
        f"{escape(line)}</text>"
        for number, (line, style) in enumerate(zip(lines, styles, strict=False))
    )
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{fill}" '
        f'stroke="{LINE}"/>{words}'
    )


def arrow(*points: tuple[int, int], both: bool = False) -> str:
    """A line through points with a tip at its end, or at both."""
    start = ' marker-start="url(#tip)"' if both else ""
    path = " ".join(f"{x},{y}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.6" '
        f'marker-end="url(#tip)"{start}/>'
    )


def stages() -> list[str]:
    """Names of the stages of dvc.yaml, in its order."""
    return list(yaml.safe_load((DOCS.parent / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def parts() -> Iterator[str]:
    """Every box and arrow."""
    yield box(
        20, 20, 200, 88, ["Your data", "images: PNG, JPEG, DICOM", "clinical table", "notes"], GIVEN
    )
    yield box(270, 20, 480, 88, [], MADE)
    yield f'<text x="510" y="44" fill="{INK}" font-weight="600">dvc repro</text>'
    names = stages()
    for line, half in enumerate((names[: len(names) // 2 + 1], names[len(names) // 2 + 1 :])):
        yield (
            f'<text x="510" y="{68 + 22 * line}" fill="{INK}" font-size="13">'
            f"{escape(' → '.join(half))}</text>"
        )
    yield box(
        800,
        20,
        180,
        88,
        ["Evidence", "model card, report", "intervals, subgroups", "shortcut flags"],
        MADE,
    )
    yield arrow((220, 64), (270, 64))
    yield arrow((750, 64), (800, 64))
    yield box(395, 150, 230, 54, ["Bundle", "encoders, fusion, calibration, gate"], MADE)
    yield arrow((510, 108), (510, 150))
    doors = (
        ["Page", "explained, with feedback"],
        ["Command line", "one study or a table"],
        ["Python", "notebook, scikit-learn"],
        ["HTTP", "programs"],
        ["Node", "beside the PACS"],
    )
    for number, lines in enumerate(doors):
        left = 20 + 196 * number
        yield box(left, 246, 176, 54, lines, DONE)
        yield arrow((510, 204), (510, 225), (left + 88, 225), (left + 88, 246))
    yield box(804, 150, 176, 54, ["PACS, RIS", "DICOM, HL7, FHIR"], GIVEN)
    yield arrow((940, 204), (940, 246), both=True)
    yield box(20, 346, 176, 60, ["Next model", "gate, change record"], AFTER)
    yield box(412, 346, 176, 60, ["Monitoring", "data and concept drift"], AFTER)
    yield box(216, 346, 176, 60, ["Alarm", "signed webhook, mail"], AFTER)
    yield box(
        608,
        346,
        372,
        60,
        ["Prediction log", "no pixels, no note text, ids as keyed hashes, chained"],
        AFTER,
    )
    yield arrow((892, 300), (892, 346))
    yield arrow((696, 300), (696, 346))
    yield arrow((108, 300), (108, 323), (794, 323), (794, 346))
    yield arrow((608, 376), (588, 376))
    yield arrow((412, 376), (392, 376))
    yield arrow((216, 376), (196, 376))
    yield arrow((20, 376), (8, 376), (8, 177), (395, 177))


def layers() -> Iterator[str]:
    """The layers, from the top down, each with an arrow to the next."""
    for row, rooms in enumerate(LAYERS):
        wide = (WIDTH - 20) // len(rooms)
        for column, (name, about, fill) in enumerate(rooms):
            yield box(20 + column * wide, 20 + row * ROW, wide - 20, 54, [name, about], fill)
        if row:
            yield arrow((WIDTH // 2, row * ROW - 4), (WIDTH // 2, row * ROW + 18))


def drawn(height: int, label: str, shapes: Iterator[str]) -> str:
    """A whole picture."""
    head = HEAD.format(width=WIDTH, height=height, label=label, marker=MARKER)
    return "\n".join([head, *shapes, "</svg>"]) + "\n"


def drawings() -> dict[str, str]:
    """File → picture."""
    top_down = "Layers of the code; imports run from the top down only"
    return {
        "system.svg": drawn(HEIGHT, SYSTEM, parts()),
        "architecture.svg": drawn(20 + ROW * len(LAYERS), top_down, layers()),
    }


if __name__ == "__main__":
    for name, text in drawings().items():
        (DOCS / name).write_text(text, encoding="utf-8")
