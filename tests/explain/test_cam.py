"""Class activation maps: sums, any backbone, no trace left behind, two threads at once."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from cxr_mm.core.errors import InputError
from cxr_mm.core.study import Study
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.cam import WEIGHED, cam, logit_map
from cxr_mm.explain.subject import Subject
from cxr_mm.inference.predictor import Predictor
from cxr_mm.models.fusion import Fusion, Part
from cxr_mm.models.image_encoder import build_image_encoder

methods = pytest.mark.parametrize("method", sorted(WEIGHED))


@methods
def test_values_lie_over_the_square_between_0_and_1(bundle, subject, method):
    for finding in bundle.task.finding_names:
        said = cam(subject, Target(finding), method)
        assert said.values.shape == (bundle.size, bundle.size)
        assert said.values.dtype == np.float32
        assert said.values.min() >= 0
        assert said.values.max() == (0 if said.extra["empty"] else 1)


def test_the_methods_differ(bundle, subject):
    target = Target(bundle.task.finding_names[0])
    maps = [logit_map(subject, target, method) for method in sorted(WEIGHED)]
    for number, one in enumerate(maps):
        assert all(np.abs(one - other).max() > 1e-6 for other in maps[number + 1 :])


def test_grad_cam_adds_up_to_what_the_embedding_gives_the_logit(bundle, subject):
    """Over all three stages, image and mirror image: gradient times embedding of a linear head."""
    batch = subject.batch
    with torch.inference_mode():
        image = bundle.embeddings(batch)["image"]
    leaf = image.clone().requires_grad_()
    logits = bundle.logits({**bundle.embeddings(batch), "image": leaf}, batch.mask)
    for column, finding in enumerate(bundle.task.finding_names):
        (slope,) = torch.autograd.grad(logits[0, column], leaf, retain_graph=True)
        given = float((slope * image).sum())
        assert logit_map(subject, Target(finding)).sum() == pytest.approx(given, rel=0.02, abs=0.02)


@pytest.mark.parametrize(
    ("backbone", "pool"),
    [
        ("resnet18", "stages"),
        ("small_cnn", "last"),
        ("vit_tiny_patch16_224", "last"),
        ("vit_tiny_patch16_224", "stages"),
        ("swin_tiny_patch4_window7_224", "last"),
    ],
)
def test_any_backbone_has_a_map(bundle, a_study, backbone, pool):
    torch.manual_seed(0)
    encoder = build_image_encoder(backbone, 64, 2, weights="none", pool=pool, mirror=True).eval()
    parts = tuple(Part(length=length) for length in encoder.spec.parts)
    spec = bundle.fusion.spec
    fusion = Fusion(spec.model_copy(update={"parts": {**spec.parts, "image": parts}})).eval()
    torch.nn.init.normal_(next(iter(fusion.network.heads)).weight)
    other = replace(bundle, image_encoder=encoder, fusion=fusion)
    raw = logit_map(Subject(other, a_study(0)), Target(bundle.task.finding_names[0]))
    assert raw.shape == (64, 64)
    assert np.isfinite(raw).all()
    assert np.ptp(raw) > 0


@methods
def test_maps_that_the_answer_kept_say_the_same_and_change_no_answer(bundle, a_study, method):
    study = a_study(0)
    plain = Predictor(bundle, accept_any_image=True).answer_one(study)
    keeping = Predictor(bundle, accept_any_image=True, keep_maps=True).answer_one(study)
    assert keeping.prediction == plain.prediction
    assert torch.equal(keeping.encoded.embeddings["image"], plain.encoded.embeddings["image"])
    assert plain.encoded.maps is None
    for finding in bundle.task.finding_names:
        kept, anew = (
            logit_map(Subject.of(bundle, answer), Target(finding), method)
            for answer in (keeping, plain)
        )
        np.testing.assert_array_equal(kept, anew)


def test_each_of_a_batch_has_the_map_that_it_has_alone(bundle, a_study):
    studies, target = [a_study(i) for i in range(3)], Target(bundle.task.finding_names[0])
    answers = Predictor(bundle, accept_any_image=True, keep_maps=True).answer(studies)
    for study, answer in zip(studies, answers, strict=True):
        assert answer.encoded.maps is not None
        together, alone = (
            logit_map(subject, target)
            for subject in (Subject.of(bundle, answer), Subject(bundle, study))
        )
        np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_batch_with_a_study_without_image_keeps_no_maps(bundle, a_study):
    studies = [a_study(0), Study("s", note="Fever.")]
    assert bundle.encode(studies, keep_maps=True).maps is None


def test_a_finding_that_nothing_speaks_for_gives_an_empty_map(bundle, a_study):
    silent = Subject(deaf_to_the_image(bundle), a_study(0))
    said = cam(silent, Target(bundle.task.finding_names[0]))
    assert said.extra["empty"]
    assert not said.values.any()


def deaf_to_the_image(bundle):
    """The same bundle, deaf to the image: the fusion's inputs from it are scaled to nothing."""
    fusion = copy.deepcopy(bundle.fusion)
    fusion.standardise["image"].scale.fill_(float("inf"))
    return replace(bundle, fusion=fusion)


def test_no_hook_and_no_gradient_is_left_behind(bundle, subject):
    before = {n: p.clone() for n, p in bundle.classifier.named_parameters()}
    for method in sorted(WEIGHED):
        cam(subject, Target(bundle.task.finding_names[0]), method)
    assert not any(m._forward_hooks or m._backward_hooks for m in bundle.classifier.modules())
    for name, parameter in bundle.classifier.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_two_threads_give_what_each_gives_alone_while_predictions_run(bundle, a_study):
    target = Target(bundle.task.finding_names[0])
    alone = [cam(Subject(bundle, a_study(i)), target).values for i in range(4)]

    def predict(number):
        return bundle.encode([a_study(number)]).embeddings["image"].shape[0]

    with ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(predict, i) for i in range(8)]
        together = list(
            pool.map(lambda i: cam(Subject(bundle, a_study(i)), target).values, range(4))
        )
    assert all(b.result() == 1 for b in busy)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_an_unknown_finding_lists_those_that_exist(bundle, subject):
    with pytest.raises(InputError, match=bundle.task.finding_names[0]):
        cam(subject, Target("pneumothorax_of_the_moon"))


def test_a_study_without_image_has_no_map(bundle):
    with pytest.raises(InputError, match="image"):
        cam(Subject(bundle, Study("s", note="Fever.")), Target(bundle.task.finding_names[0]))
