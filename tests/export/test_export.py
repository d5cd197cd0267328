"""Export: the hub's folder is what the hub and timm read. The graph: tests/api/test_guide.py."""

import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModel
from typer.testing import CliRunner

from cxr_mm import cli
from cxr_mm.core.errors import InputError, StageError
from cxr_mm.core.files import write_json
from cxr_mm.core.paths import bundle_digest, reports_of
from cxr_mm.export import onnx
from cxr_mm.export.hub import export_hub
from cxr_mm.export.onnx import export_onnx
from cxr_mm.models.bert import load_bert
from cxr_mm.models.bundle import load_bundle
from cxr_mm.models.torchvision_compat import timm

FIGURES = {"auc": {"value": 0.81}, "brier": {"value": 0.2}, "ece": {"value": None}}


@pytest.fixture(scope="module")
def bundle(bundle_folder):
    return load_bundle(bundle_folder)


def test_missing_packages_are_said(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(InputError, match=r"pip install 'cxr-mm\[onnx\]'"):
        export_onnx(bundle, tmp_path / "out")


def test_the_hubs_folder_has_card_bundle_and_backbone(bundle, bundle_folder, tmp_path):
    folder, reports = tmp_path / "models/synthetic/bundle", tmp_path / "reports/synthetic"
    shutil.copytree(bundle_folder, folder)
    metrics = {"digest": bundle.digest, "subsets": {"available": {"findings": {}}}}
    metrics["subsets"]["available"]["findings"] = dict.fromkeys(bundle.task.finding_names, FIGURES)
    write_json(reports / "metrics.json", metrics)
    (reports / "model_card.md").write_text(f"# Model card\n\n{bundle.digest}\n")
    out = tmp_path / "hub"
    words = ["export", "--bundle", str(folder), "--format", "hub", "--out", str(out)]
    assert CliRunner().invoke(cli.app, words, catch_exceptions=False).exit_code == 0
    card = ModelCard.load(out / "README.md")
    assert card.text.strip().startswith("# Model card")
    assert card.data.library_name == "cxr-mm"
    assert "synthetic-data" in card.data.tags
    values = {(r.dataset_config, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert values["effusion", "roc_auc"] == 0.81
    assert len(values) == 4
    assert bundle_digest(out / "bundle") == bundle.digest
    network = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    images = torch.rand(1, 1, bundle.size, bundle.size)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), bundle.image_encoder.backbone(images))
    assert_transformers_opens(out / "bundle" / "note_encoder")


def assert_transformers_opens(folder):
    ids = torch.tensor([[101, 9016, 102]])
    mask = torch.ones_like(ids)
    theirs = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(load_bert(folder)(ids, mask), wanted)


def test_a_model_without_its_card_is_not_for_the_hub(bundle, tmp_path):
    with pytest.raises(StageError, match="model_card"):
        export_hub(bundle, tmp_path / "hub", reports_of(tmp_path / "bundle", "synthetic"))
    assert not (tmp_path / "hub").exists()
