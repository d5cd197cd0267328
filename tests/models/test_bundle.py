"""The bundle: what is saved is what is loaded, to the bit; what was tampered with is refused."""

import errno
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from cxr_mm.core.errors import BundleError, ClinicalError, NoteError
from cxr_mm.core.files import read_json, write_json
from cxr_mm.core.paths import BUNDLE_INDEX
from cxr_mm.core.study import Study
from cxr_mm.data.manifest import load_manifest, load_quality
from cxr_mm.data.split import load_split, resamples
from cxr_mm.imaging.burnt_in_text import without_text
from cxr_mm.models.bundle import load_bundle, save_bundle
from cxr_mm.models.registry import index_digest


@pytest.fixture(scope="module")
def bundle(bundle_folder):
    return load_bundle(bundle_folder)


@pytest.fixture
def copied(bundle_folder, tmp_path):
    return shutil.copytree(bundle_folder, tmp_path / "bundle")


def study(**changes):
    image = torch.rand(90, 70, generator=torch.Generator().manual_seed(0)).numpy()
    given = {"image": image, "clinical": {"age": 61.0, "crp": 80.0}, "note": "fever and rigors"}
    return Study("s", **{**given, **changes})


def logits(bundle, *studies):
    batch = bundle.encode(studies).batch
    with torch.inference_mode():
        return bundle.classifier(batch.image, batch.tabular, batch.note, batch.mask)


def test_saved_again_it_is_equal_to_the_bit(bundle, bundle_folder, tmp_path):
    digest = save_bundle(bundle, tmp_path / "again")
    again = load_bundle(tmp_path / "again")
    assert digest == bundle.digest == again.digest
    assert torch.equal(logits(again, study()), logits(bundle, study()))
    for part in bundle_folder.rglob("*"):
        if part.is_file():
            twin = tmp_path / "again" / part.relative_to(bundle_folder)
            assert twin.read_bytes() == part.read_bytes(), part


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_the_pages_of_the_file_that_processes_share(bundle_folder):
    bundle = load_bundle(bundle_folder)
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    of_bundle = [
        range(*(int(limit, 16) for limit in fields[0].split("-")))
        for fields in mapped
        if fields[-1].startswith(str(bundle_folder.resolve()))
    ]
    for part in (bundle.fusion, bundle.image_encoder):
        for name, weights in part.state_dict().items():
            assert any(weights.data_ptr() in pages for pages in of_bundle), name


def test_there_is_no_pickle_in_it(bundle_folder):
    suffixes = {p.suffix for p in bundle_folder.rglob("*") if p.is_file()}
    assert suffixes <= {".json", ".safetensors", ".txt", ".png"}


def test_a_bundle_without_a_field_that_came_later_keeps_its_digest(copied):
    content = read_json(copied / BUNDLE_INDEX)
    for feature in content["task"]["clinical"]:
        del feature["limits"]
    content["digest"] = index_digest(content)
    write_json(copied / BUNDLE_INDEX, content)
    assert load_bundle(copied).digest == content["digest"]


def test_one_changed_byte_in_any_part_is_refused(copied):
    for part in sorted(p for p in copied.rglob("*") if p.is_file()):
        whole = part.read_bytes()
        middle = len(whole) // 2
        part.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(BundleError, match=part.name):
            load_bundle(copied)
        part.write_bytes(whole)
    load_bundle(copied)


def test_a_missing_part_is_named(copied):
    (copied / "clinical.json").unlink()
    with pytest.raises(BundleError, match=r"clinical\.json is missing"):
        load_bundle(copied)


def test_a_foreign_part_is_named(copied):
    (copied / "extra.pkl").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"extra\.pkl does not belong"):
        load_bundle(copied)


def test_another_format_is_refused_by_its_number(copied):
    index = json.loads((copied / BUNDLE_INDEX).read_text())
    (copied / BUNDLE_INDEX).write_text(json.dumps({**index, "format": 99}))
    with pytest.raises(BundleError, match="format is 99"):
        load_bundle(copied)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no bundle"):
        load_bundle(tmp_path)


def test_a_file_that_this_account_may_not_read_is_named(copied, monkeypatch):
    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("cxr_mm.models.registry.sha256_file", forbidden)
    with pytest.raises(BundleError, match=r"background.json: cannot be read \(Permission denied\)"):
        load_bundle(copied)


def test_whoever_may_read_the_folder_may_read_every_part(bundle, tmp_path):
    folder = tmp_path / "bundle"
    save_bundle(bundle, folder)
    expected = folder.stat().st_mode & 0o666
    assert {p.stat().st_mode & 0o777 for p in folder.rglob("*") if p.is_file()} == {expected}


def test_it_knows_the_studies_that_it_was_trained_on_and_no_others(bundle, pipeline):
    manifest, split = load_manifest(pipeline.paths, pipeline.task), load_split(pipeline.paths)
    part = resamples(split)[0]
    trained = np.concatenate([part.train, part.val])
    ids, patients = (manifest.frame[name] for name in ("study_id", "patient_id"))
    images = load_quality(pipeline.paths)["file_sha256"]
    for kind, values in (("study_id", ids), ("patient_id", patients), ("image", images)):
        assert bundle.fingerprints.contains(kind, values.iloc[trained]).sum() == sum(
            values.iloc[trained].fillna("") != ""
        )
        assert not bundle.fingerprints.contains(kind, values.iloc[part.test]).any()


def test_encode_masks_what_a_study_lacks(bundle):
    studies = [study(), study(image=None), study(clinical={}), study(note="  ")]
    batch = bundle.encode(studies).batch
    expected = [[True, True, True], [False, True, True], [True, False, True], [True, True, False]]
    assert batch.mask.tolist() == expected
    assert batch.image.shape == (4, 1, bundle.size, bundle.size)
    assert batch.tabular.shape == (4, len(bundle.clinical.columns))


def test_the_image_encoder_is_run_for_studies_with_an_image_alone(bundle, monkeypatch):
    whole = bundle.encode([study(), study()]).embeddings["image"]
    real, seen = bundle.classifier.image_encoder.forward, []

    def counting(images):
        seen.append(len(images))
        return real(images)

    monkeypatch.setattr(bundle.classifier.image_encoder, "forward", counting)
    found = bundle.encode([study(image=None), study(), study(image=None), study()])
    assert seen == [2]
    torch.testing.assert_close(found.embeddings["image"][1::2], whole)
    assert not found.embeddings["image"][::2].any()
    assert not bundle.encode([study(image=None)]).embeddings["image"].any()
    assert seen == [2]


def test_burnt_in_text_is_masked_as_the_bundle_says_and_once_only(bundle, tmp_path):
    drawn = Image.new("L", (300, 360), 60)
    font = ImageFont.load_default(16)
    ImageDraw.Draw(drawn).text((20, 20), "PORTABLE", fill=255, font=font)
    burnt = study(image=np.asarray(drawn, np.float32) / np.float32(255))
    save_bundle(replace(bundle, mask_text=True), tmp_path / "masking")
    masking = load_bundle(tmp_path / "masking")
    masked = masking.encode([burnt]).batch.image
    clean = study(image=without_text(burnt.image))
    assert torch.equal(masked, bundle.encode([clean]).batch.image)
    assert not torch.equal(masked, bundle.encode([burnt]).batch.image)
    fitted = masking.fitted(burnt)
    assert fitted.image.shape == (bundle.size, bundle.size)
    assert torch.equal(masking.encode([fitted]).batch.image, masked)
    as_cached = replace(burnt, image=bundle.fitted(burnt).image, fitted=True)
    assert torch.equal(masking.encode([as_cached]).batch.image, bundle.encode([burnt]).batch.image)


def test_a_study_answers_the_same_alone_and_among_others(bundle):
    others = [study(image=None), study(note=None), study(clinical={})]
    alone = logits(bundle, study())
    torch.testing.assert_close(logits(bundle, study(), *others)[:1], alone, atol=1e-4, rtol=1e-4)


def test_image_gradient_reaches_the_pixels(bundle):
    batch = bundle.encode([study()]).batch
    image = batch.image.clone().requires_grad_()
    bundle.classifier(image, batch.tabular, batch.note, batch.mask).sum().backward()
    assert image.grad.abs().sum() > 0


def test_a_bad_value_is_unknown_and_what_the_task_does_not_know_is_refused(bundle):
    (values,) = bundle.encode([study(clinical={"age": "999"})]).clinical
    assert values["age"] is None
    assert "age: 999 is out of range, so it counts as unknown" in values.warnings[0]
    with pytest.raises(ClinicalError, match="no such clinical feature"):
        bundle.encode([study(clinical={"shoe_size": 44})])
    with pytest.raises(NoteError, match="too many"):
        bundle.encode([study(note="x" * 30_000)])
