"""Part `text`: words are burnt in whole, plain ones are found, and images counted by the answer."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.accuracy import burnt_in_text
from benchmarks.accuracy.burnt_in_text import HEIGHTS, is_found, word_strokes
from cxr_mm.data.manifest import load_manifest


@pytest.mark.parametrize("height", HEIGHTS)
def test_a_word_lies_whole_within_the_image(height):
    for seed in range(20):
        strokes = word_strokes((320, 400), height, np.random.default_rng(seed))
        edges = [strokes[0], strokes[-1], strokes[:, 0], strokes[:, -1]]
        assert max(edge.max() for edge in edges) == 0
        assert strokes.max() > 0.6


def test_plain_words_are_found_and_faint_ones_are_not():
    grey = np.full((400, 400), 0.4, np.float32)
    found = [is_found(grey, 0.045, 1.0, np.random.default_rng(seed)) for seed in range(20)]
    assert np.mean(found) > 0.9
    assert not is_found(grey, 0.045, 0.1, np.random.default_rng(0))


def test_images_with_text_are_counted_by_the_answer(pipeline, monkeypatch):
    task = pipeline.task
    monkeypatch.setattr(burnt_in_text, "setting", lambda name, changes: SimpleNamespace(task=task))
    run = SimpleNamespace(metrics={"task": task.name}, folder=pipeline.paths.root)
    rows = list(burnt_in_text._prevalence(run))
    manifest = load_manifest(pipeline.paths, task)
    labels = manifest.labels()[manifest.mask()[:, 0], 0]
    assert [(row.row, row.n) for row in rows] == [
        ("positive", int((labels == 1).sum())),
        ("negative", int((labels == 0).sum())),
    ]
    assert all(row.ci95[0] <= row.value <= row.ci95[1] for row in rows)
