"""Fingerprints: training studies are found by id, patient or image, and nobody can read them."""

from cxr_mm.core.fingerprints import Fingerprints, file_digest


def test_what_was_trained_on_is_found_however_it_is_written():
    stored = Fingerprints.of("k" * 64, {"study_id": ["A1", "12", None, "A1"], "image": []})
    found = stored.contains("study_id", ["a1", "12.0", " 12", "13", None, ""])
    assert found.tolist() == [True, True, True, False, False, False]
    assert len(stored.hashes["study_id"]) == 2
    assert not stored.contains("image", ["x"]).any()


def test_ids_that_hold_a_nought_between_points_are_not_one():
    stored = Fingerprints.of("k" * 64, {"study_id": ["1.2.840.0.1"]})
    assert stored.contains("study_id", ["1.2.840.0.1", "1.2.840.1"]).tolist() == [True, False]


def test_each_bundle_has_hashes_of_its_own():
    one, other = (Fingerprints.of(key, {"study_id": ["A1"]}) for key in ("a", "b"))
    assert one.hashes["study_id"][0] != other.hashes["study_id"][0]


def test_an_image_that_cannot_be_read_has_no_digest(tmp_path):
    assert file_digest(None) is None
    assert file_digest(str(tmp_path / "nowhere.png")) is None
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(str(tmp_path / "abc")).startswith("ba7816bf")
