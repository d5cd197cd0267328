"""Fixtures of the node's tests: settings of a node, a queue, and radiographs as DICOM files."""

import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import trustme
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from app.pacs.guard import close_for_good
from app.pacs.queue import Arrival, Queue
from app.pacs.settings import NodeSettings

VERIFICATION = "1.2.840.10008.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self):
        return self.now

    def move(self, seconds):
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'queue.db'}"


@pytest.fixture
def queue(url, clock):
    opened = Queue(url, clock=clock)
    yield opened
    opened.close()


def arrival(uid="1.2.3", priority=0, file=None):
    return Arrival(uid, DX, "archive", file or f"received/{uid}.dcm", "c" * 64, priority)


def node_fields(tmp_path, **changed):
    """Contents of a node's file with one peer and one rule."""
    peer = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 11113}
    rule = {"bundle": str(tmp_path), "destinations": [{"peer": "archive"}]}
    fields = {"storage": str(tmp_path / "node"), "port": 11112, "peers": [peer], "rules": [rule]}
    return fields | changed


@pytest.fixture
def settings(tmp_path):
    return NodeSettings.model_validate(node_fields(tmp_path))


@pytest.fixture
def authority(tmp_path):
    """Certificates of one authority for the node and a peer, and one of another's."""
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, signer in (("node", ours), ("peer", ours), ("stranger", other)):
        issued = signer.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        for blob in issued.cert_chain_pems:
            blob.write_to_path(tmp_path / f"{name}.pem", append=True)
    return tmp_path


def radiograph(uid=None, side=64, seed=0, pixels=None, **header):
    """A small DX image with the pixels (H, W), of 12 bits, or noise."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = DX
    dataset.SOPInstanceUID = uid or generate_uid(entropy_srcs=[f"image {seed}"])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[f"study {seed}"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[f"series {seed}"])
    fields = {
        "PatientID": f"P{seed}", "PatientName": "Phantom^Test", "PatientSex": "F",
        "PatientAge": "063Y", "PatientBirthDate": "", "StudyDate": "20260301",
        "StudyTime": "120000", "StudyID": "1", "AccessionNumber": "", "SeriesNumber": 1,
        "InstanceNumber": 1, "Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "PA",
        "StudyDescription": "Chest", "ReferringPhysicianName": "",
        "PresentationIntentType": "FOR PRESENTATION", "ImageType": ["ORIGINAL", "PRIMARY"],
    }  # fmt: skip
    for name, value in {**fields, **header}.items():
        setattr(dataset, name, value)
    if pixels is None:
        pixels = np.random.default_rng(seed).integers(0, 4096, (side, side))
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = np.asarray(pixels, "<u2").tobytes()
    return dataset


def dcmtk(name):
    """DCMTK's program, not pynetdicom's of the same name beside the interpreter; or a skip."""
    own = str(Path(sys.executable).parent)
    folders = [f for f in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin") if f != own]
    found = shutil.which(name, path=":".join(folders))
    if found is None:
        pytest.skip(f"DCMTK's {name} is not installed")
    return found


def orthanc_program():
    """Path of Orthanc, or a skip."""
    found = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip("Orthanc is not installed")
    return found


def associated(port, title="ARCHIVE", called="CXRMM", contexts=(DX, VERIFICATION), **options):
    """An association with the node, as a peer makes one."""
    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    for each in contexts:
        entity.add_requested_context(each, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title=called, **options)
    close_for_good(association)
    if not association.is_established:
        association.dul.socket.close()  # pynetdicom may end its loop before it does
    return association


def stored(port, *datasets, **options):
    """Status of a C-STORE of each data set."""
    association = associated(port, **options)
    assert association.is_established
    try:
        return [association.send_c_store(each).get("Status") for each in datasets]
    finally:
        association.release()
