"""The fusion model: shapes, masks, gradients, invariances, and what a save gives back."""

from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file

from cxr_mm.core.types import MODALITIES, subsets
from cxr_mm.models.calibration import subset_mask
from cxr_mm.models.fusion import KINDS, Fusion, FusionSpec, Part, Standardise

DIMS = {"image": 12, "tabular": 5, "note": 8}
ROWS, FINDINGS = 16, 3


def build(kind, dims=None):
    dims = dims or DIMS
    spec = FusionSpec(
        kind=kind,
        parts={m: (Part(length=dim),) for m, dim in dims.items()},
        scales=dict.fromkeys(dims, 1.0),
        outputs=FINDINGS,
        hidden=6,
        tabular_hidden=4,
        dropout=0.2,
    )
    torch.manual_seed(0)
    fusion = Fusion(spec)
    for weights in fusion.parameters():  # `late` starts at zero, where nothing could be seen
        torch.nn.init.normal_(weights, std=0.3)
    fusion.calibration.weight.uniform_(0.5, 1.5)
    fusion.calibration.bias.normal_()
    return fusion.eval()


def batch(dims=None, seed=1):
    torch.manual_seed(seed)
    inputs = {m: torch.randn(ROWS, d) for m, d in (dims or DIMS).items()}
    patterns = torch.tensor(list(product([False, True], repeat=3)))
    return inputs, patterns.repeat(ROWS // 8, 1)


kinds = pytest.mark.parametrize("kind", sorted(KINDS))


@kinds
def test_one_logit_per_study_and_finding_for_every_subset(kind):
    inputs, mask = batch()
    logits = build(kind)(inputs, mask)
    assert logits.shape == (ROWS, FINDINGS)
    assert logits.isfinite().all()


@kinds
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_nothing_behind_an_absent_modality_reaches_the_output(kind, poison):
    inputs, mask = batch()
    fusion = build(kind)
    expected = fusion(inputs, mask)
    poisoned = {
        m: torch.where(mask[:, MODALITIES.index(m), None], rows, torch.full_like(rows, poison))
        for m, rows in inputs.items()
    }
    assert torch.equal(fusion(poisoned, mask), expected)


@kinds
def test_a_modality_that_is_there_does_reach_the_output(kind):
    inputs, _ = batch()
    mask = torch.ones(ROWS, 3, dtype=torch.bool)
    fusion = build(kind)
    before = fusion(inputs, mask)
    for modality in DIMS:
        changed = {**inputs, modality: inputs[modality] + 1}
        assert (fusion(changed, mask) != before).any(1).all()


@kinds
def test_absence_is_a_state_of_its_own_and_not_an_input_of_zeros(kind):
    inputs, _ = batch()
    fusion = build(kind)
    present = torch.ones(ROWS, 3, dtype=torch.bool)
    zeroed = {**inputs, "note": torch.zeros_like(inputs["note"])}
    absent = present & torch.tensor([True, True, False])
    assert not torch.allclose(fusion(zeroed, present), fusion(inputs, absent))


@kinds
def test_gradient_flows_to_what_is_present_and_to_nothing_else(kind):
    fusion = build(kind)
    for subset in subsets(MODALITIES):
        inputs, _ = batch()
        inputs = {m: rows.requires_grad_() for m, rows in inputs.items()}
        mask = subset_mask(subset).expand(ROWS, -1)
        fusion(inputs, mask).sum().backward()
        for modality, rows in inputs.items():
            reached = rows.grad is not None and bool(rows.grad.any())
            assert reached == (modality in subset)


@kinds
def test_gradient_reaches_every_weight_in_training(kind):
    fusion = build(kind)
    inputs, _ = batch()
    mask = torch.ones(ROWS, 3, dtype=torch.bool)
    fusion.columns(inputs, mask).sum().backward()
    absent = {n for n, w in fusion.named_parameters() if w.grad is None or not w.grad.any()}
    assert all("absent" in name for name in absent), absent


@kinds
def test_a_permuted_batch_gives_permuted_logits(kind):
    inputs, mask = batch()
    order = torch.randperm(ROWS)
    fusion = build(kind)
    permuted = fusion({m: rows[order] for m, rows in inputs.items()}, mask[order])
    torch.testing.assert_close(permuted, fusion(inputs, mask)[order])


@kinds
def test_one_study_alone_gives_what_it_gives_in_a_batch(kind):
    inputs, mask = batch()
    fusion = build(kind)
    alone = torch.cat(
        [fusion({m: r[i : i + 1] for m, r in inputs.items()}, mask[i : i + 1]) for i in range(ROWS)]
    )
    torch.testing.assert_close(alone, fusion(inputs, mask))


@kinds
def test_saved_and_loaded_it_is_equal_to_the_bit(kind, tmp_path):
    fusion = build(kind)
    inputs, mask = batch()
    save_file(
        {n: t.contiguous() for n, t in fusion.state_dict().items()}, tmp_path / "f.safetensors"
    )
    spec = FusionSpec.model_validate_json(fusion.spec.model_dump_json())
    again = Fusion(spec)
    again.load_state_dict(load_file(tmp_path / "f.safetensors"))
    assert torch.equal(again.eval()(inputs, mask), fusion(inputs, mask))


@kinds
@pytest.mark.parametrize("dims", [{"image": 12}, {"tabular": 5, "note": 8}])
def test_a_task_may_lack_modalities(kind, dims):
    inputs, mask = batch(dims)
    used = torch.tensor([m in dims for m in MODALITIES])
    logits = build(kind, dims)(inputs, mask & used)
    assert logits.shape == (ROWS, FINDINGS)
    assert logits.isfinite().all()


@kinds
def test_one_modality_may_vary_while_what_was_made_of_the_others_is_kept(kind):
    inputs, mask = batch()
    fusion = build(kind)
    held = {m: rows[:1].expand(ROWS, -1) if m != "note" else rows for m, rows in inputs.items()}
    encoded = {m: fusion.encode(m, inputs[m] if m == "note" else inputs[m][:1]) for m in inputs}
    whole = fusion(held, mask)
    torch.testing.assert_close(fusion.join(encoded, mask), whole)
    other_order = dict(reversed(encoded.items()))
    torch.testing.assert_close(fusion.join(other_order, mask), whole)


@kinds
def test_rehearsal_never_shows_what_is_absent_nor_hides_all(kind):
    inputs, mask = batch()
    fusion = build(kind).train()
    network = fusion.network
    rows = fusion.clean(inputs, mask)
    for _, seen in network.training_views(rows, mask, 0.9):
        assert not (seen & ~mask.any(1)).any()
    shown = torch.stack([seen for _, seen in network.training_views(rows, mask, 0.9)]).any(0)
    assert torch.equal(shown, mask.any(1))


def test_late_trains_each_head_on_its_own_modality_alone():
    inputs, _ = batch()
    mask = torch.ones(ROWS, 3, dtype=torch.bool)
    fusion = build("late")
    network = fusion.network
    logits, _ = network.training_views(fusion.clean(inputs, mask), mask, 0.0)[0]
    logits.sum().backward()
    assert network.heads[0].weight.grad.any()
    assert network.heads[2].weight.grad is None or not network.heads[2].weight.grad.any()


def test_standard_scores_are_learnt_from_those_who_have_the_modality():
    inputs, _ = batch()
    mask = torch.ones(ROWS, 3, dtype=torch.bool)
    mask[8:, 0] = False
    inputs["image"][8:] = 1e6
    fusion = build("late")
    fusion.fit_standardise(inputs, mask)
    torch.testing.assert_close(fusion.standardise["image"].mean, inputs["image"][:8].mean(0))
    scores = fusion.clean(inputs, mask)["image"][:8]
    torch.testing.assert_close(
        scores.square().sum(1).mean(), torch.tensor(7 / 8), rtol=0.05, atol=0
    )


def test_parts_of_an_embedding_count_alike_whatever_their_length_and_scale():
    torch.manual_seed(0)
    scores = Standardise((Part(length=4), Part(length=400)))
    rows = torch.cat([100 * torch.randn(500, 4) + 7, 0.01 * torch.randn(500, 400)], dim=1)
    scores.fit(rows)
    short, long = scores(rows).split((4, 400), dim=1)
    assert float(short.square().sum(1).mean()) == pytest.approx(0.5, rel=0.02)
    assert float(long.square().sum(1).mean()) == pytest.approx(0.5, rel=0.02)


def test_counts_weigh_by_rarity_and_a_long_note_is_no_louder_than_a_short_one():
    torch.manual_seed(0)
    rows = (
        torch.rand(500, 20) < torch.cat([torch.full((1,), 0.01), torch.full((19,), 0.6)])
    ).float()
    rows[0] = 1
    scores = Standardise((Part(length=20, counted=True), Part(length=4)))
    scores.fit(torch.cat([rows, torch.randn(500, 4)], dim=1))
    long, short = torch.ones(1, 20), torch.eye(20)[1:2]
    found = [scores(torch.cat([note, torch.zeros(1, 4)], dim=1))[0, :20] for note in (long, short)]
    assert [float(note.square().sum()) for note in found] == pytest.approx([0.5, 0.5])
    rare, common = found[0][0], found[0][1]
    idf = [torch.tensor(501 / (1 + float((rows[:, j] > 0).sum()))).log() + 1 for j in (0, 1)]
    assert float(rare / common) == pytest.approx(float(idf[0] / idf[1]), rel=1e-4)
    assert rare > 2 * common


def test_a_note_without_a_word_is_no_evidence_and_no_error():
    scores = Standardise((Part(length=20, counted=True),))
    scores.fit(torch.ones(5, 20))
    assert not scores(torch.zeros(1, 20)).any()


@pytest.mark.parametrize("kind", ["concat", "gated"])
def test_joint_kinds_take_words_in_fewer_cells(kind):
    parts = {
        "note": (Part(length=8), Part(length=1024, counted=True), Part(length=100, counted=True))
    }
    spec = FusionSpec(
        kind=kind,
        parts=parts,
        scales={"note": 1.0},
        outputs=1,
        hidden=4,
        tabular_hidden=0,
        dropout=0.0,
    )
    fusion = Fusion(spec).eval()
    widths = {w.shape[1] for w in fusion.network.encoders["note"].parameters() if w.ndim == 2}
    assert widths == {8 + 256 + 100}
    note = torch.zeros(1, 1132)
    note[0, 8 + 300] = 1
    moved = torch.zeros(1, 1132)
    moved[0, 8 + 300 - 256] = 1
    mask = torch.tensor([[False, False, True]])
    torch.testing.assert_close(fusion({"note": note}, mask), fusion({"note": moved}, mask))
    assert not torch.equal(fusion({"note": note}, mask), fusion({"note": 0 * note}, mask))
