import functools
import json

import pytest
import torch

from cxr_mm.core.errors import ParamsError, WeightsError
from cxr_mm.models.backbones import SmallCnn
from cxr_mm.models.image_encoder import (
    ImageEncoder,
    build_image_encoder,
    common_resolution,
    load_image_encoder,
    save_image_encoder,
)

BACKBONES = ["small_cnn", "resnet10t", "vit_tiny_patch16_224", "tf_efficientnet_lite0"]


@functools.cache
def encoder_of(backbone, pool="stages"):
    torch.manual_seed(0)
    return build_image_encoder(backbone, 64, 3, 0.2, "none", pool).eval()


@pytest.mark.parametrize("pool", ["last", "stages"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_save_and_load_are_equal_to_the_bit(backbone, pool, tmp_path):
    encoder, images = encoder_of(backbone, pool), torch.randn(2, 1, 64, 64)
    save_image_encoder(encoder, tmp_path)
    again = load_image_encoder(tmp_path)
    embedding = encoder(images)
    assert embedding.shape == (2, encoder.dim)
    assert torch.equal(again(images), embedding)
    assert torch.equal(again.logits(embedding), encoder.logits(embedding))
    assert again.logits(embedding).shape == (2, 3)
    assert again.spec == encoder.spec
    assert not again.training


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradient_reaches_the_feature_map(backbone):
    encoder, seen = encoder_of(backbone), {}
    layer = encoder.feature_layer()
    hook = layer.register_forward_hook(lambda _m, _i, output: seen.update(output=output))
    embedding = encoder(torch.randn(2, 1, 64, 64))
    hook.remove()
    (gradient,) = torch.autograd.grad(encoder.logits(embedding)[:, 1].sum(), seen["output"])
    spatial = encoder.feature_map(gradient)
    assert spatial.ndim == 4
    assert spatial.shape[2] == spatial.shape[3] > 1
    assert spatial.abs().sum((1, 2, 3)).min() > 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_stages_end_with_what_last_gives_and_begin_finer(backbone):
    images = torch.randn(2, 1, 64, 64)
    stages, last = encoder_of(backbone), encoder_of(backbone, "last")
    assert len(stages.spec.parts) == 3
    assert last.spec.parts == stages.spec.parts[-1:]
    found = stages(images).split(stages.spec.parts, dim=1)
    assert torch.allclose(found[-1], last(images), atol=1e-5)
    assert found[0].std() > 0


def test_a_backbone_that_shows_no_stages_is_refused(monkeypatch):
    monkeypatch.delattr(SmallCnn, "forward_intermediates")
    with pytest.raises(
        ParamsError, match=r"train_image\.pool: small_cnn gives no feature.*Use last"
    ):
        build_image_encoder("small_cnn", 64, 1, 0.0, "none", "stages")


def test_an_image_and_its_mirror_image_embed_alike():
    torch.manual_seed(0)
    encoder = build_image_encoder("small_cnn", 64, 1, 0.0, "none", mirror=True).eval()
    images, seen = torch.randn(2, 1, 64, 64), {}
    encoder.feature_layer().register_forward_hook(lambda _m, _i, output: seen.update(o=output))
    embedding = encoder(images)
    features = encoder.feature_map(seen["o"])
    assert torch.allclose(encoder(images.flip(-1)), embedding, atol=1e-6)
    assert torch.allclose(encoder.feature_map(seen["o"]).flip(-1), features, atol=1e-6)
    assert features.shape[0] == 2
    assert encoder.train()(images).shape == embedding.shape


def test_feature_layer_leaves_mode_and_statistics_alone():
    encoder = build_image_encoder("small_cnn", 64, 1, 0.0, "none").train()
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    encoder.feature_layer()
    assert encoder.backbone.training
    assert all(torch.equal(before[n], t) for n, t in encoder.state_dict().items())


def test_images_are_brought_to_what_the_backbone_expects():
    encoder = encoder_of("resnet10t", "last")
    mean, std = 0.449, 0.226
    grey = torch.rand(1, 1, 64, 64)
    scaled = encoder.backbone((grey - mean) / std)
    assert torch.allclose(encoder(grey * 2 - 1), scaled, atol=1e-2)


def test_no_activation_works_in_place():
    for backbone in BACKBONES:
        encoder = encoder_of(backbone)
        assert not any(getattr(m, "inplace", False) for m in encoder.modules())


@pytest.mark.parametrize("damage", ["missing", "truncated", "other backbone", "extra field"])
def test_a_damaged_folder_is_refused(damage, tmp_path):
    save_image_encoder(encoder_of("small_cnn"), tmp_path)
    spec, weights = tmp_path / "encoder.json", tmp_path / "encoder.safetensors"
    result = json.loads(spec.read_text())
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "other backbone":
        spec.write_text(json.dumps({**result, "backbone": "resnet10t"}))
    else:
        spec.write_text(json.dumps({**result, "surprise": 1}))
    with pytest.raises(WeightsError, match="no image encoder"):
        load_image_encoder(tmp_path)


def test_a_common_resolution_makes_files_stored_large_and_small_look_alike(tmp_path):
    torch.manual_seed(0)
    encoder = build_image_encoder("small_cnn", 64, 1, 0.0, "none", resolution=16).eval()
    large = torch.rand(4, 1, 64, 64) * 2 - 1
    small = common_resolution(large, 16)
    plain = ImageEncoder(encoder.spec.model_copy(update={"resolution": None}), encoder.backbone)
    assert torch.equal(encoder(large), plain.eval()(small))
    between = common_resolution(large, 24)
    apart = [(e(large) - e(between)).norm() / e(large).norm() for e in (encoder, plain)]
    assert apart[0] < 0.5 * apart[1]
    save_image_encoder(encoder, tmp_path)
    assert load_image_encoder(tmp_path).spec.resolution == 16
    assert torch.autograd.grad(encoder(large.requires_grad_()).sum(), large)[0].abs().sum() > 0
    assert common_resolution(large.bfloat16(), 16).dtype == torch.bfloat16
