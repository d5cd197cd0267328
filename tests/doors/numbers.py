"""Collect every number that leaves the system, through its public doors alone.

`python -m tests.doors.numbers --write` writes the record anew. Names that may change stand in the
table below and nowhere else; what the doors give is turned into one vocabulary by `canonical`.
"""

import base64
import importlib
import io
import json
import math
import os
import re
import shutil
import sys
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from click.testing import Result
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from typer.testing import CliRunner

import cxr_mm
from cxr_mm.core.errors import RadiographError
from cxr_mm.inference.predictor import load_predictor
from tests.app.test_server import served
from tests.browser.conftest import serving

CLI, MONITORING = "cxr_mm.cli:app", "monitoring.cli:app"
API_IMAGE, ANY_IMAGE = "image", "--accept-any-image"
MANIFEST, CLINICAL_COLUMN = "data/synthetic/ingest/manifest.parquet", "clinical."
BUNDLE, REPORTS, TASK_FILE = "models/synthetic/bundle", "reports/synthetic", "tasks/synthetic.yaml"
LOG_SECRET = "CXR_MM_LOG_SECRET"
METHODS = ("grad_cam", "shap_tabular", "shap_note", "lime_tabular")
RENAMES = {"film": "image", "refused": "rejected", "oddness": "ood_score"}
"""Part of a key or word → what the record calls it; both the old and the new name lead there."""
LEFT_OUT = re.compile(
    "created_at|.*_hash|record_id|digest|latency.*|slowest|longest_gap|hours|model"
)
"""Keys of what differs from run to run, or follows from how files are laid out."""
DISAGREEMENTS_TODAY: set[tuple[str, str]] = set()
"""Study and value of which the doors say different things: none, since one function builds every
study (`cxr_mm.data.studies.build_study`)."""
RECORD = Path(__file__).with_name("numbers.json")
WRITE, SAME_MACHINE = "CXR_MM_WRITE_NUMBERS", "CXR_MM_SAME_MACHINE"
SAME_TOLERANCE = 1e-6
OTHER_TOLERANCE, OTHER_TOLERANCE_OF_MANY = 0.01, 0.1
"""For another processor, ten times the largest difference measured between AVX-512 and AVX2, models
trained anew on each: 0.0008 in what one study gets (0.0003 in probabilities), 0.011 in `MANY`."""
MANY = ("/evaluate", "/report")
"""Doors whose figures, drift scores and p-values for instance, are of many studies."""
WORD = re.compile(r"^ ?([a-z][a-z_.+]*|[A-Z]{2}) ?$")
LONGEST_LIST, KEPT = 12, 5
IDENTITY = ("finding", "metric", "name", "method", "feature", "subset", "against", "detector")
VALUES = ("probability", "threshold", "positive", "certainty")
EXPLAINED = ("all", "image_tabular", "note")
CLINICAL = {"age": 63, "sex": "F", "smoker": "ex", "temperature": "38.5", "spo2": 91, "crp": 120.5}


@dataclass(frozen=True)
class Given:
    """What a caller hands in, the clinical values as numbers or as text."""

    name: str
    image: Path | None = None
    clinical: dict[str, Any] = field(default_factory=dict)
    note: str | None = None
    view: str | None = None

    @property
    def key(self) -> str:
        """Name the study in the record; its id is `name`."""
        return self.name.strip()


def ten_studies(project: Path, folder: Path) -> list[Given]:
    """Make ten studies of every kind, and one whose picture is no chest radiograph."""
    manifest = pd.read_parquet(project / MANIFEST)
    known = manifest[manifest["image_path"].notna() & manifest["note"].notna()].iloc[3:9]
    png = [project / path for path in known["image_path"]]
    notes = list(known["note"])
    jpeg, dicom, noise = (folder / f"study.{kind}" for kind in ("jpg", "dcm", "noise.png"))
    Image.open(png[1]).convert("L").save(jpeg, quality=95)
    write_dicom(png[2], dicom, "AP")
    grey = np.random.default_rng(0).integers(0, 255, (120, 100), dtype=np.uint8)
    Image.fromarray(grey).save(noise)
    return [
        Given("image", png[0]),
        Given("tabular", clinical={"age": "63", "sex": "F"}),
        Given("note", note=f"  {notes[0]} \n"),
        Given("image_tabular", jpeg, {"age": 120, "spo2": 100.0, "crp": 0}, view="PA"),
        Given("image_note", dicom, note=notes[1]),
        Given("tabular_note", clinical={"age": 63, "crp": "unknown"}, note=notes[2]),
        Given("all", png[3], CLINICAL, notes[3], "AP"),
        Given("other_view", dicom, {"wbc": None, "albumin": ""}, notes[4], "PA"),
        Given("unseen_view", jpeg, {"heart_rate": 88}, "  ", "LL"),
        Given(" blanks ", png[4], {"age": " 63 ", "sex": " male "}, notes[5], " PA "),
        Given("noise", noise, {"age": 63}),
    ]


def write_dicom(picture: Path, path: Path, view: str) -> None:
    """Write a picture as a DICOM file that states its view."""
    grey = np.asarray(Image.open(picture).convert("L"))
    result = pydicom.Dataset()
    result.file_meta = pydicom.dataset.FileMetaDataset()
    result.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    result.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    result.SOPInstanceUID = "1.2"
    result.Modality, result.BodyPartExamined, result.ViewPosition = "DX", "CHEST", view
    result.Rows, result.Columns = grey.shape
    result.SamplesPerPixel, result.PhotometricInterpretation = 1, "MONOCHROME2"
    result.BitsAllocated, result.BitsStored, result.HighBit, result.PixelRepresentation = 8, 8, 7, 0
    result.PixelData = grey.tobytes()
    result.save_as(path, enforce_file_format=True)


def ran(door: str, *words: Any, codes: tuple[int, ...] = (0,)) -> Result:
    """Run a command line in this process, which has to end with one of these codes."""
    module, _, name = door.partition(":")
    app = getattr(importlib.import_module(module), name)
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code in codes, (words, result.output, result.exception)
    return result


def options(given: Given) -> list[Any]:
    """Say a study in options."""
    words = ["--study-id", given.name]
    for option in ("image", "note", "view"):
        value = getattr(given, option)
        words += [] if value is None else [f"--{option}", value]
    for name, value in given.clinical.items():
        words += ["--clinical", f"{name}={'' if value is None else value}"]
    return words


def by_command(bundle: Path, studies: list[Given]) -> dict[str, Any]:
    """Ask `cxr-mm predict --json`."""
    outcome = {}
    for given in studies:
        words = ("predict", "--bundle", bundle, "--json", *options(given))
        result = ran(CLI, *words, codes=(int(given.key == "noise"),))
        outcome[given.key] = None if result.exception else numbers_of(json.loads(result.stdout))
    return outcome


def numbers_of(prediction: dict[str, Any]) -> dict[str, Any]:
    """Take from a prediction what every door gives."""
    found = {
        f"{name}.{each['finding']}": each[name]
        for each in prediction["findings"]
        for name in VALUES
    }
    for name, mark in (("modalities", "+"), ("classes", "+"), ("warnings", "; ")):
        found[name] = mark.join(prediction[name])
    found |= {name: prediction[name] for name in ("study_id", "coverage")}
    return {**found, "warned": len(prediction["warnings"])}


def by_python(bundle: Path, studies: list[Given]) -> dict[str, Any]:
    """Ask `cxr_mm.load(…).predict`, with images as arrays where they are no DICOM files."""
    model, outcome = cxr_mm.load(bundle), dict[str, Any]()
    for given in studies:
        inputs = {"clinical": given.clinical, "note": given.note, "view": given.view}
        image = given.image
        if image and image.suffix != ".dcm":
            image = np.asarray(Image.open(image))
        try:
            prediction = model.predict(image, **inputs, study_id=given.name)
            outcome[given.key] = numbers_of(prediction.model_dump(mode="json"))
        except RadiographError:
            outcome[given.key] = None
    return outcome


def by_rest(bundle: Path, studies: list[Given]) -> dict[str, Any]:
    """Ask `/v1/predict`, by turns with a form and with JSON; nothing is logged."""
    outcome: dict[str, Any] = {}
    with served(load_predictor(bundle)) as (client, _):
        for turn, given in enumerate(studies):
            file = given.image.read_bytes() if given.image else None
            values = {name: getattr(given, name) for name in ("note", "view")}
            values = {name: value for name, value in values.items() if value is not None}
            values["study_id"] = given.name
            if turn % 2:
                coded = {"image": base64.b64encode(file).decode()} if file else {}
                body: dict[str, Any] = {"json": {"clinical": given.clinical, **values, **coded}}
            else:
                fields = {"clinical": json.dumps(given.clinical), **values}
                parts = {name: (None, value) for name, value in fields.items()}
                body = {"files": {**parts, **({"image": ("any", file)} if file else {})}}
            answer = client.post("/v1/predict", **body)
            outcome[given.key] = numbers_of(answer.json()) if answer.status_code == 200 else None
    return outcome


def by_table(project: Path, studies: list[Given], folder: Path) -> dict[str, Any]:
    """Ask `cxr-mm score`; a study that is not among its rows was refused."""
    manifest, out = folder / "studies.csv", folder / "scored.parquet"
    columns = pd.read_parquet(project / MANIFEST).columns
    features = [c.removeprefix(CLINICAL_COLUMN) for c in columns if c.startswith(CLINICAL_COLUMN)]
    own = {"study_id": "name", "image_path": "image", "note": "note", "view": "view"}
    rows = [
        {name: getattr(each, attribute) for name, attribute in own.items()}
        | {name: each.clinical.get(name) for name in features}
        for each in studies
    ]
    pd.DataFrame(rows, dtype=object).to_csv(manifest, index=False)
    ran(CLI, "score", "--bundle", project / BUNDLE, "--manifest", manifest, "--out", out)
    scored = {row["study_id"]: row for row in pd.read_parquet(out).to_dict("records")}
    for row in scored.values():
        row["warned"] = len(row["warnings"].split("; ")) if row["warnings"] else 0
        row.pop("patient_id")
    return {given.key: scored.get(given.key) for given in studies}


def handed_in(given: Given) -> dict[str, Any]:
    """Say a study in the API's own arguments."""
    image = handle_file(str(given.image)) if given.image else None
    result = {"clinical": given.clinical, "note": given.note, "view": given.view}
    return {API_IMAGE: image, **result, "study_id": given.name}


def by_page(client: Client, studies: list[Given]) -> dict[str, Any]:
    """Ask the page's `/predict`."""
    result = {}
    for given in studies:
        try:
            result[given.key] = numbers_of(client.predict(**handed_in(given), api_name="/predict"))
        except AppError:
            result[given.key] = None
    return result


def explained(bundle: Path, studies: list[Given], client: Client, folder: Path) -> dict[str, Any]:
    """Ask `cxr-mm explain` and the page's `/explain`."""
    found: dict[str, Any] = {"command": {}, "page": {}}
    for given in (each for each in studies if each.name in EXPLAINED):
        out = folder / f"explained_{given.key}"
        requested = [word for name in METHODS for word in ("--method", name)]
        ran(CLI, "explain", "--bundle", bundle, *options(given), *requested, "--out", out)
        result = json.loads((out / "explanation.json").read_text())
        found["command"][given.key] = with_pictures(result, out)
        request = {"findings": [], "methods": list(METHODS)}
        result = client.predict(**handed_in(given), **request, api_name="/explain")
        found["page"][given.key] = with_pictures(result, out)
    return found


def with_pictures(said: Any, folder: Path) -> Any:
    """Put the mean and spread of each picture's pixels in its place."""
    if isinstance(said, dict):
        return {key: with_pictures(value, folder) for key, value in said.items()}
    if isinstance(said, list):
        return [with_pictures(value, folder) for value in said]
    if not isinstance(said, str) or not (said.endswith(".png") or said.startswith("data:image/")):
        return said
    inline = said.startswith("data:")
    data = base64.b64decode(said.partition(",")[2]) if inline else (folder / said).read_bytes()
    pixels = np.asarray(Image.open(io.BytesIO(data)), np.float64) / 255
    return {"mean": float(pixels.mean()), "spread": float(pixels.std())}


def logged(bundle: Path, log: str, studies: list[Given], folder: Path) -> dict[str, Any]:
    """Export what the page logged, and report it with labels as one window."""
    labels, rows, out = folder / "labels.csv", folder / "log.parquet", folder / "report"
    lines = [f"{each.name},{n % 2},{n // 2 % 2}" for n, each in enumerate(studies)]
    labels.write_text("\n".join(["study_id,consolidation,effusion", *lines]))
    ran(MONITORING, "export", "--log", log, "--task", "synthetic", "--out", rows)
    stored = pd.read_parquet(rows).to_dict("records")
    ran(MONITORING, "labels", "--log", log, "--csv", labels, "--bundle", bundle)
    words = ("--bundle", bundle, "--log", log, "--out", out)
    code = ran(MONITORING, "report", *words, codes=(0, 3, 10, 20)).exit_code
    names = [each.key for each in studies if each.key != "noise"]
    return {
        "log": dict(zip(names, stored, strict=True)),
        "report": {"code": code, **json.loads((out / "verdict.json").read_text())},
    }


def evaluated(project: Path, folder: Path) -> dict[str, Any]:
    """Run the stage evaluate, and evaluate at another centre on thirty of the same studies."""
    work, out = folder / "work", folder / "elsewhere"
    shutil.copytree(project, work)
    with chdir(work):
        ran(CLI, "evaluate", TASK_FILE)
    table = pd.read_parquet(project / MANIFEST).iloc[:30]
    table.columns = [name.split(".")[-1] for name in table.columns]
    table["image_path"] = [p and str(project / p) for p in table["image_path"].astype(object)]
    table.to_csv(folder / "elsewhere.csv", index=False)
    words = ("--bundle", project / BUNDLE, "--manifest", folder / "elsewhere.csv", "--out", out)
    ran(CLI, "evaluate-on", *words, ANY_IMAGE, "--include-trained")
    rows = pd.read_parquet(out / "predictions.parquet").groupby("subset")
    files = [*sorted((work / REPORTS).glob("*.json")), out / "metrics.json"]
    found = {f"{path.parent.name}.{path.stem}": json.loads(path.read_text()) for path in files}
    return {**found, "elsewhere.predictions": json.loads(rows.mean(numeric_only=True).to_json())}


def collect(project: Path, folder: Path) -> dict[str, Any]:
    """Collect what every door gives."""
    bundle, log = project / BUNDLE, f"sqlite:///{folder}/log.db"
    studies = ten_studies(project, folder)
    found: dict[str, Any] = {
        "command": by_command(bundle, studies),
        "python": by_python(bundle, studies),
        "rest": by_rest(bundle, studies),
        "table": by_table(project, studies, folder),
        "evaluate": evaluated(project, folder),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LOG_SECRET, "always the same one")  # reports depend on the order of hashes
        with serving(folder, "--bundle", str(bundle), "--log", log) as url:
            client = Client(url, verbose=False, ssl_verify=False)
            found["page"] = by_page(client, studies)
            found["explain"] = explained(bundle, studies, client, folder)
        return {**found, **logged(bundle, log, studies, folder)}


def canonical(value: Any) -> Any:
    """Bring keys and words to one vocabulary; floats to 9 digits, long lists to a few figures."""
    if isinstance(value, dict):
        stored = {renamed(k): canonical(v) for k, v in value.items() if not LEFT_OUT.fullmatch(k)}
        return {key: stored[key] for key in sorted(stored) if stored[key] is not None}
    if isinstance(value, list | tuple | np.ndarray):
        return canonical_list(list(value))
    if isinstance(value, str):
        return renamed(value) if WORD.match(value) else None
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    number = float(value)
    return float(f"{number:.9g}") if math.isfinite(number) else str(number)


def canonical_list(values: list[Any]) -> Any:
    """Name the members of a list by what they are about."""
    if values and all(isinstance(each, str) for each in values):
        return "+".join(renamed(each) for each in values if WORD.match(each)) or None
    if len(values) > LONGEST_LIST and not isinstance(values[0], dict):
        norm = float(np.linalg.norm(np.asarray(values, np.float64)))
        return canonical({"length": len(values), "norm": norm, "start": values[:KEPT]})
    named: dict[str, Any] = {}
    for number, each in enumerate(values):
        words = [str(each[k]) for k in IDENTITY if k in each] if isinstance(each, dict) else []
        label = ".".join(words) or str(number)
        named[label if label not in named else f"{label}.{number}"] = each
    return canonical(named)


def renamed(word: str) -> str:
    """Put the record's names in the place of today's."""
    for old, new in RENAMES.items():
        word = word.replace(old, new)
    return word


def tolerance(path: str) -> float:
    """Say how far a number of the record may be off on this machine."""
    if os.environ.get(SAME_MACHINE):
        return SAME_TOLERANCE
    return OTHER_TOLERANCE_OF_MANY if path.startswith(MANY) else OTHER_TOLERANCE


def differences(now: Any, before: Any, path: str = "") -> dict[str, float]:
    """Give, by path, how far each number is off; infinity where a value is another or missing."""
    if isinstance(now, dict) and isinstance(before, dict):
        found: dict[str, float] = {}
        for key in sorted(now.keys() | before.keys()):
            found |= differences(now.get(key), before.get(key), f"{path}/{key}")
        return found
    if type(now) is float and type(before) is float:
        return {path: abs(now - before) / max(1.0, abs(before))}
    return {} if now == before else {path: math.inf}


if __name__ == "__main__":
    os.environ[WRITE] = "1" if "--write" in sys.argv else ""
    os.execv(sys.executable, [sys.executable, "-m", "pytest", str(RECORD.parent)])
