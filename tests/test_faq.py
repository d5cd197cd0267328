"""docs/faq.md: each error of it is raised here, and reads as it is printed there."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from app.settings import Settings
from cxr_mm import cli
from cxr_mm.core.config import for_task, load_params
from cxr_mm.core.errors import CxrError
from cxr_mm.core.paths import TaskPaths, data_root
from cxr_mm.core.task import load_task
from cxr_mm.data.sources import read_source
from cxr_mm.data.studies import build_study, iter_studies, nothing_given
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.models.registry import read_index
from monitoring.reference import load_reference
from monitoring.scheduler.cron import Cron

PAGE = Path(__file__).parents[1] / "docs/faq.md"
SHOWN = [t.strip() for t in re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)]
SYNTHETIC = load_task("synthetic")
HERE = Path()


def file(name, text):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run(*words):
    raise CliRunner().invoke(cli.app, words).exception


def invalid_task():
    file("tasks/lung.yaml", "name: lung\ntitle: Lung\nproblem: binary\nfinding: pneumonia\n")
    load_task("lung")


def table_of_others():
    run("new-task", "lung", "--csv", str(file("cases.csv", "id,file\n1,a.png\n2,b.png\n")))


def lost_labels():
    from cxr_mm.data.ingest import ingest

    head = "study_id,patient_id,age,pneumonia\n"
    rows = "".join(f"s{i},p{i},60,{'1' if i < 1 else 'maybe'}\n" for i in range(10))
    file("ours/manifest.csv", head + rows)
    fields = {
        "name": "lung",
        "title": "Lung",
        "problem": "binary",
        "findings": [{"name": "pneumonia", "title": "Pneumonia"}],
        "source": {"kind": "manifest_csv", "folder": "ours"},
        "split": {"protocol": "folds"},
        "clinical": [
            {"name": "age", "title": "Age", "type": "number", "minimum": 0, "maximum": 120}
        ],
        "has_image": False,
        "licence": "ours",
        "citation": "ours",
    }
    task = load_task(file("lung.yaml", yaml.safe_dump(fields)))
    params = for_task(load_params(PAGE.parents[1] / "params.yaml"), task)
    ingest(task, params, TaskPaths("lung"), HERE)


def backbone(name):
    from cxr_mm.models.backbones import pretrained_backbone

    pretrained_backbone(name, 224, "packaged")


def stage_too_early():
    from cxr_mm.data.split import split

    params = for_task(load_params(PAGE.parents[1] / "params.yaml"), SYNTHETIC)
    split(SYNTHETIC, params, TaskPaths("synthetic"))


def changed_bundle(bundle):
    shutil.copytree(bundle, "copy")
    index = Path("copy/bundle.json")
    index.write_text(index.read_text().replace('"note_words": ', '"note_words": 1', 1))
    read_index(Path("copy"))


def rejected_image(bundle):
    from cxr_mm.api.model import load

    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save("noise.png")
    load(bundle).predict(image="noise.png")


def nothing():
    raise nothing_given(SYNTHETIC, build_study(SYNTHETIC))


RAISED = [
    lambda _: load_task("lung"),
    lambda _: invalid_task(),
    lambda _: read_source(load_task("effusion"), data_root(), HERE),
    lambda _: table_of_others(),
    lambda _: list(iter_studies(SYNTHETIC, file("studies.csv", "id,file\n1,a.png\n"))),
    lambda _: lost_labels(),
    lambda _: read_radiograph(file("scan.png", "no image")),
    lambda _: load_params(file("params.yaml", "tasks: [lung]\ningest: {sizes: 224}\n")),
    lambda _: backbone("resnet5o"),
    lambda _: backbone("resnet50"),
    lambda _: stage_too_early(),
    lambda _: read_index(Path("models/icu")),
    changed_bundle,
    rejected_image,
    lambda _: build_study(SYNTHETIC, clinical={"hieght": 180}),
    lambda _: nothing(),
    lambda _: Settings(bundles=(HERE,), host="0.0.0.0"),
    lambda _: load_reference(Path("models/icu/reference")),
    lambda _: Cron("0 25 * * *"),
]


CASES = list(zip(SHOWN, RAISED, strict=True))


@pytest.mark.parametrize(("shown", "raised"), CASES, ids=[text[:40] for text in SHOWN])
def test_an_error_of_the_page_is_raised_as_it_is_printed(
    shown, raised, bundle_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CXR_MM_DATA", raising=False)
    with pytest.raises(CxrError) as caught:
        raised(bundle_folder)
    pattern = ".+".join(re.escape(part) for part in shown.split("…"))
    assert re.fullmatch(pattern, str(caught.value), re.DOTALL), str(caught.value)
