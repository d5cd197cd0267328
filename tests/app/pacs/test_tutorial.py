"""The tutorial of the node, run as it stands, and the files it is run with."""

import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from app.pacs.commands import phantom
from benchmarks.system.pacs_peers import free_port
from cxr_mm.core.errors import ParamsError
from cxr_mm.data.synthetic.dicom import write_dicom
from cxr_mm.data.synthetic.phantom import draw_image
from cxr_mm.data.synthetic.population import SynthesisSpec, draw_cases
from cxr_mm.imaging.radiograph import read_radiograph
from tests.app.pacs.conftest import dcmtk, orthanc_program

DOCS = Path(__file__).parents[3] / "docs"
PAGE = DOCS / "pacs_tutorial.md"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
PORTS = ("4242", "8042", "11112")


def with_free_ports(texts):
    """The texts with a free port in place of each port of the tutorial."""
    for port in PORTS:
        free = str(free_port())
        texts = [text.replace(port, free) for text in texts]
    return texts


@pytest.fixture(scope="module")
def ran(tmp_path_factory, bundle_folder):
    dcmtk("dsrdump")
    orthanc_program()
    folder = tmp_path_factory.mktemp("tutorial")
    shutil.copytree(bundle_folder, folder / "models" / "synthetic" / "bundle")
    shutil.copytree(DOCS / "examples" / "pacs", folder / "docs" / "examples" / "pacs")
    files = list((folder / "docs" / "examples" / "pacs").iterdir())
    script = "".join(code for kind, code in BLOCK.findall(PAGE.read_text()) if kind == "bash")
    *texts, script = with_free_ports([*(file.read_text() for file in files), script])
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    done = subprocess.run(
        ["bash", "-em", "-c", f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(["", *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return folder, done.stdout


def test_every_command_of_the_tutorial_works(ran):
    folder, out = ran
    assert '"answered": 3' in out
    assert '"sent": 9' in out
    (shown,) = [code for kind, code in BLOCK.findall(PAGE.read_text()) if kind == "text"]
    assert shown.strip() in out
    for words in (
        "Probability",
        "Operating point (threshold)",
        "Lung consolidation",
        "Pleural effusion",
    ):
        assert words.lower() in out.lower()
    assert (folder / "demo" / "sc.png").read_bytes()[:4] == b"\x89PNG"
    assert dcmread(folder / "demo" / "sr.dcm").Modality == "SR"
    assert dcmread(folder / "demo" / "gsps.dcm").Modality == "PR"


def test_a_phantom_is_a_radiograph_that_says_synthetic(tmp_path):
    spec = SynthesisSpec(studies=4, seed=3, image_absent=0)
    files = write_dicom(tmp_path / "new", spec, datetime(2026, 3, 1, 12))
    again = write_dicom(tmp_path / "again", spec, datetime(2026, 3, 1, 12))
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]
    case = draw_cases(spec)[0]
    image = read_radiograph(files[0])
    drawn = draw_image(spec, case)[0]
    assert np.corrcoef(image.pixels.ravel(), drawn.ravel())[0, 1] > 0.9999
    header = dcmread(files[0])
    assert "SYNTHETIC" in header.ImageComments
    assert header.ViewPosition == case.illness.view
    assert header.PatientAge == f"{round(case.patient.age):03d}Y"


def test_a_folder_of_phantoms_replaces_nothing(tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ParamsError, match="FOLDER"):
        phantom(tmp_path)
    assert (tmp_path / "mine").read_text() == "kept"
