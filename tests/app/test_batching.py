"""Batching: who is in a batch, whose error it is, and that company changes no answer."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.batching import Batcher, BatchingPredictor
from cxr_mm.core.errors import InputError
from cxr_mm.core.study import Study

MOST = 3


class Work:
    """Doubles numbers; the first batch takes until it is let go."""

    def __init__(self):
        self.batches, self.begun, self.free = [], threading.Event(), threading.Event()

    def __call__(self, numbers):
        self.batches.append(list(numbers))
        self.begun.set()
        assert self.free.wait(30)
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]


def together(batcher, work, first, others):
    """Futures of the first item, and of the others, which come while it is being done."""
    pool = ThreadPoolExecutor(1 + len(others))
    futures = [pool.submit(batcher.run, first)]
    assert work.begun.wait(30)
    for number, other in enumerate(others, start=1):
        futures.append(pool.submit(batcher.run, other))
        await_waiting(batcher, number)
    work.free.set()
    return futures


def await_waiting(batcher, number):
    while len(batcher._waiting) < number:
        time.sleep(0.001)


def test_who_waits_when_the_work_before_is_done_is_done_together():
    work = Work()
    futures = together(Batcher(work, MOST), work, 1, [2, 3, 4, 5])
    assert [each.result(30) for each in futures] == [2, 4, 6, 8, 10]
    assert [batch for batch in work.batches if batch] == [[1], [2, 3, 4], [5]]


def test_an_error_is_that_of_its_own_item_alone():
    work = Work()
    futures = together(Batcher(work, MOST), work, 1, [2, 13, 4])
    assert [futures[k].result(30) for k in (0, 1, 3)] == [2, 4, 8]
    with pytest.raises(ValueError, match="13"):
        futures[2].result(30)


def test_a_study_is_answered_in_company_as_by_itself(predictor):
    task = predictor.bundle.task
    noise = np.random.default_rng(5)
    studies = [
        Study(
            study_id=f"s{number}",
            image=noise.random((90, 80 + number), dtype=np.float32) if number % 2 else None,
            clinical={task.clinical[0].name: 40.0 + number} if number % 3 else {},
            note="Fever and cough. " * number or None,
        )
        for number in range(1, 7)
    ]
    empty = Study(study_id="empty", image=None, clinical={}, note=None)
    batching = BatchingPredictor(predictor.bundle, max_batch=len(studies) + 1)
    batching.accept_any_image = predictor.accept_any_image
    batcher, sizes, let_go = batching._batcher, [], threading.Event()
    batcher._work = lambda given: sizes.append(len(given)) or batching.attempt(given)
    batcher._thread.submit(let_go.wait)  # as a forward pass under way
    with ThreadPoolExecutor(len(studies) + 1) as pool:
        futures = [pool.submit(batching.answer_one, study) for study in [*studies, empty]]
        await_waiting(batcher, len(futures))
        let_go.set()
        answers = [future.result(60) for future in futures[:-1]]
        with pytest.raises(InputError):
            futures[-1].result(60)
    assert sizes[0] == len(futures)
    for study, answer in zip(studies, answers, strict=True):
        alone, found = predictor.answer_one(study).prediction, answer.prediction
        assert (found.study_id, found.modalities) == (study.study_id, alone.modalities)
        chances = ([f.probability for f in each.findings] for each in (alone, found))
        np.testing.assert_allclose(*chances, rtol=0, atol=1e-6)
