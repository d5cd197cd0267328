"""The sandboxed decoder: a file can break its own reading only, and no process is left behind."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import gdcm
import numpy as np
import psutil
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from cxr_mm.core.errors import RadiographError
from cxr_mm.imaging.burnt_in_text import model_square
from cxr_mm.imaging.decoder import FITTING_READER, Decoder, Limits
from cxr_mm.imaging.geometry import copy_to_draw
from cxr_mm.imaging.radiograph import read_image
from cxr_mm.imaging.sandbox import MIB

READER = """
import os, signal, time
import numpy as np
from cxr_mm.imaging.radiograph import read_image

def read(path, name):
    if name == "hang":
        time.sleep(600)
    if name == "slow":
        time.sleep(1)
    if name == "memory":
        np.ones(2**30)
    if name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "noise":
        os.write(1, b"a decoder prints this")
    if name == "write":
        with path.with_suffix(".new").open("wb", buffering=0) as stream:
            stream.write(b"x")
    image = read_image(path, name)
    if name == "threads":
        import cv2
        image.radiograph.header["threads"] = cv2.getNumThreads()
    image.radiograph.header["pid"] = os.getpid()
    return image
"""


@pytest.fixture
def path(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (300, 200), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.fixture
def decoder_of(tmp_path, monkeypatch):
    """Makes decoders whose images misbehave by name."""
    (tmp_path / "misbehaving.py").write_text(READER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda **limits: Decoder(Limits(**limits), "misbehaving:read")


def compressed(folder):
    """A DICOM file that only gdcm decodes."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.Modality, ds.ViewPosition, ds.PatientAge = "DX", "PA", "063Y"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PixelRepresentation = 200, 200, 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.PixelData = (np.add.outer(np.arange(200), np.arange(200)) * 7).astype("<u2").tobytes()
    ds.save_as(folder / "plain.dcm", enforce_file_format=True)
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(folder / "plain.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(folder / "image.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutputAsPixmap())
    assert writer.Write()
    return folder / "image.dcm"


def same(one, other):
    ours, theirs = asdict(one), asdict(other)
    for part in ("radiograph", "viewable"):
        for field, value in ours[part].items():
            np.testing.assert_array_equal(value, theirs[part][field], err_msg=field)
            assert type(value) is type(theirs[part][field])
    return True


def descendants():
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_an_image_is_the_same_as_when_it_is_read_in_this_process(path, tmp_path):
    packed = compressed(tmp_path)
    here = read_image(packed, "image.dcm")
    before = descendants()
    with Decoder() as decoder:
        assert same(decoder.read(path, "image.png"), read_image(path, "image.png"))
        assert same(decoder.read(packed, "image.dcm"), here)
        assert len(descendants() - before) == 1  # the worker runs gdcm itself
    assert descendants() == before


def test_what_one_model_alone_sees_is_its_square_with_all_else_that_was_read(path):
    with Decoder(reader=FITTING_READER) as decoder:
        image = decoder.read(path, "image.png", size=48, mask_text=False)
    whole = read_image(path).radiograph
    fitted = replace(whole, pixels=image.radiograph.pixels, fitted=True, shape=(300, 200))
    assert image.radiograph == fitted
    square = model_square(whole.pixels, 48, mask_text=False)
    assert np.array_equal(np.rint(image.radiograph.pixels * 255), square)
    assert np.array_equal(image.drawn, copy_to_draw(whole.pixels))
    assert image.viewable is None


def test_processes_start_when_they_are_needed_and_end_with_the_decoder(path, decoder_of):
    before = descendants()
    with decoder_of() as decoder:
        assert descendants() == before
        pids = {decoder.read(path, "image.png").radiograph.header["pid"] for _ in range(3)}
        assert pids == descendants() - before
        assert len(pids) == 1
    assert descendants() == before
    with pytest.raises(RadiographError, match="no more images are read"):
        decoder.read(path, "image.png")
    assert descendants() == before


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "the file is empty"), (b"\x89PNG\r\n\x1a\n" + bytes(99), "damaged or cut short")],
)
def test_errors_are_those_of_the_reader_in_all_their_fields(tmp_path, data, message):
    (tmp_path / "x").write_bytes(data)
    with Decoder() as decoder, pytest.raises(RadiographError, match=message) as caught:
        decoder.read(tmp_path / "x", "Übersicht\n.png")
    with pytest.raises(RadiographError) as here:
        read_image(tmp_path / "x", "Übersicht\n.png")
    assert vars(caught.value) == vars(here.value)
    assert str(caught.value) == str(here.value)


@pytest.mark.parametrize(
    ("name", "seconds", "message"),
    [
        ("hang", 15, "takes more than 15 seconds"),
        ("memory", 60, "takes too much memory"),
        ("kill", 60, "ended the process"),
    ],
)
def test_an_image_that_breaks_its_decoder_is_an_error_and_the_next_is_read(
    path, decoder_of, name, seconds, message
):
    with decoder_of(seconds=seconds, workers=1) as decoder:
        begun = time.monotonic()
        with pytest.raises(RadiographError, match=message) as caught:
            decoder.read(path, name)
        assert time.monotonic() - begun < seconds + 3
        assert caught.value.field == name
        assert caught.value.remedy
        assert same_pixels(decoder.read(path, "image.png"), path)


def test_a_decoder_cannot_write_a_file(path, decoder_of):
    with decoder_of() as decoder, pytest.raises(RadiographError, match="ended the process"):
        decoder.read(path, "write")
    assert path.with_suffix(".new").stat().st_size == 0


def same_pixels(image, path):
    return np.array_equal(image.radiograph.pixels, read_image(path).radiograph.pixels)


def test_what_a_decoder_prints_does_not_damage_its_answer(path, decoder_of):
    with decoder_of() as decoder:
        assert same_pixels(decoder.read(path, "noise"), path)


def test_no_core_takes_memory_of_a_process_for_threads_of_its_own(path, decoder_of):
    with decoder_of() as decoder:
        assert decoder.read(path, "threads").radiograph.header["threads"] == 1


def test_an_idle_process_that_was_killed_is_started_again(path, decoder_of):
    with decoder_of(workers=1) as decoder:
        first = decoder.read(path, "image.png").radiograph.header["pid"]
        psutil.Process(int(first)).kill()
        while decoder._workers[0]._process.poll() is None:  # its last thread ends last
            time.sleep(0.01)
        assert decoder.read(path, "image.png").radiograph.header["pid"] != first


def test_many_threads_read_at_once_through_few_processes(path, decoder_of):
    names = ["image.png", "kill", "image.png", "image.png"] * 4
    before = descendants()

    def outcome(name):
        try:
            return same_pixels(decoder.read(path, name), path)
        except RadiographError as error:
            return error.message

    with decoder_of() as decoder, ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(outcome, names))
        assert len(descendants() - before) <= 2
    assert outcomes == [name != "kill" or "ended the process that decoded it" for name in names]


def test_only_so_many_uploads_may_wait(path, decoder_of):
    with decoder_of(workers=1, waiting=1) as decoder, ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(decoder.read, path, "slow") for _ in range(4)]
        errors = [str(read.exception()) for read in reads if read.exception()]
    assert errors == ["slow: too many images wait to be read. Try again in a minute."] * 2


def test_closing_does_not_wait_for_an_image_that_hangs(path, decoder_of):
    before = descendants()
    decoder = decoder_of(workers=1)
    with ThreadPoolExecutor(2) as pool:
        reads = [pool.submit(decoder.read, path, "hang") for _ in range(2)]
        while descendants() == before:
            time.sleep(0.01)
        begun = time.monotonic()
        decoder.close()
        assert time.monotonic() - begun < 5
        assert all(isinstance(read.exception(), RadiographError) for read in reads)
    assert descendants() == before


def test_a_large_file_is_refused_before_any_process_starts(path):
    before = descendants()
    with path.open("ab") as stream:
        stream.truncate(64 * MIB + 1)
    with Decoder() as decoder, pytest.raises(RadiographError, match="more than 64 MiB"):
        decoder.read(path, "image.png")
    with Decoder() as decoder, pytest.raises(RadiographError, match=r"^no\.png: no such file"):
        decoder.read(Path("no"), "no.png")
    assert descendants() == before


def test_the_processes_need_no_torch(path, decoder_of):
    with decoder_of() as decoder:
        pid = int(decoder.read(path, "image.png").radiograph.header["pid"])
        loaded = {Path(each.path).name for each in psutil.Process(pid).memory_maps()}
    assert any("numpy" in name or "multiarray" in name for name in loaded)
    assert not any("torch" in name for name in loaded)
    assert pid != os.getpid()
