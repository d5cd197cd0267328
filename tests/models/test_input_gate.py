"""Input gate: which score speaks, at which limit, and in which words."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cxr_mm.models.input_gate import (
    JSON_FILE,
    WEIGHTS_FILE,
    GateDecision,
    InputGate,
    InputGateSpec,
    Limits,
    load_input_gate,
    save_input_gate,
)

DIM = 4


@pytest.fixture
def gate():
    """Reads `inverted` off the second dimension; the first is where images differ anyway."""
    spec = InputGateSpec(
        kinds=("image", "inverted", "picture"),
        refuse=Limits(ood_score=0.0, distance=math.log(9.0)),
        warn=Limits(ood_score=-1.0, distance=math.log(4.0)),
        images=100,
        limits_from=100,
    )
    weight = np.zeros((3, DIM), np.float32)
    weight[1, 1] = 2.0
    return InputGate(
        spec,
        mean=np.ones(DIM, np.float32),
        scale=np.full(DIM, 2.0, np.float32),
        components=np.eye(1, DIM, dtype=np.float32),
        weight=weight,
        bias=np.array([4.0, 0.0, -9.0], np.float32),
    )


def image(*standard):
    """An embedding from its standard scores."""
    return np.array([standard], np.float32) * 2 + 1


def test_scores_are_those_of_the_definition(gate):
    logits = gate.logits(image(0, 3, 0, 0))
    np.testing.assert_allclose(logits, [[4.0, 2 * 3 / math.sqrt(DIM), -9.0]], rtol=1e-6)
    # (2² + 4²) / 4: the first dimension is a component, and left out.
    assert gate.distance(image(50, 0, 2, 4))[0] == pytest.approx(math.log(5.0))


@pytest.mark.parametrize(
    ("scores", "decision"),
    [
        ((0, 0, 0, 0), None),
        ((50, 0, 0, 0), None),
        ((0, 3.2, 0, 0), GateDecision(False, "inverted")),
        ((0, 4.5, 0, 0), GateDecision(True, "inverted")),
        ((0, 0, 5, 0), GateDecision(False, "unlike")),
        ((0, 0, 7, 0), GateDecision(True, "unlike")),
        ((0, 3.2, 7, 0), GateDecision(True, "inverted")),
    ],
)
def test_either_score_is_enough_and_the_head_names_what_it_sees(gate, scores, decision):
    assert gate.check(image(*scores)) == [decision]


def test_images_are_flagged_one_by_one(gate):
    rows = np.concatenate([image(0, 0, 0, 0), image(0, 4.5, 0, 0), image(0, 0, 0, 0)])
    assert [d is not None for d in gate.check(rows)] == [False, True, False]


def test_reasons_say_what_to_mend():
    assert "swapped" in GateDecision(True, "inverted").reason
    assert "upside down" in GateDecision(True, "upside_down").reason
    assert GateDecision(True, "picture").reason == GateDecision(True, "unlike").reason


def test_read_back_it_decisions_the_same(gate, tmp_path):
    save_input_gate(gate, tmp_path)
    again = load_input_gate(tmp_path)
    assert again.spec == gate.spec
    rows = np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float32) * 8
    assert again.check(rows) == gate.check(rows)


def test_a_folder_without_one_has_none(tmp_path):
    assert load_input_gate(tmp_path) is None


def test_a_gate_that_lacks_a_part_is_refused(gate, tmp_path):
    save_input_gate(gate, tmp_path)
    from safetensors.numpy import load_file, save_file

    stored = load_file(tmp_path / WEIGHTS_FILE)
    del stored["bias"]
    save_file(stored, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="lacks bias"):
        load_input_gate(tmp_path)
    assert (tmp_path / JSON_FILE).exists()


def test_never_to_refuse_is_possible(gate):
    open_wide = Limits(ood_score=math.inf, distance=math.inf)
    never = replace(gate, spec=gate.spec.model_copy(update={"refuse": open_wide}))
    assert never.check(image(0, 9, 9, 9)) == [GateDecision(False, "inverted")]
