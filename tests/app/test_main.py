"""Start: refuses what it must with one clear line and exit code 2."""

import shutil

import pytest

from app import __main__ as main


def refused(capsys, **options):
    with pytest.raises(SystemExit) as stop:
        main.serve(**options)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert len(lines) == 1
    return lines[0]


def test_a_bundle_with_one_changed_byte_is_refused(bundle_folder, tmp_path, capsys):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_folder, copy)
    weights = copy / "fusion.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "fusion.safetensors was changed" in refused(capsys, bundle=copy, no_log=True)


def test_another_host_is_refused_before_anything_is_loaded(tmp_path, capsys):
    line = refused(capsys, bundle=tmp_path, host="0.0.0.0", no_log=True)
    assert "sign-in" in line


def test_a_log_that_is_no_url_is_refused(bundle_folder, capsys):
    assert "database URL" in refused(capsys, bundle=bundle_folder, log="nonsense")


def test_examples_without_a_manifest_are_refused(bundle_folder, tmp_path, capsys):
    line = refused(capsys, bundle=bundle_folder, no_log=True, examples=tmp_path)
    assert "manifest.csv" in line


def test_a_folder_that_is_no_bundle_is_refused(tmp_path, capsys):
    assert "bundle.json" in refused(capsys, bundle=tmp_path, no_log=True)
