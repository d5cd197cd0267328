"""Reading ahead: the order stays, no more is taken than asked, and errors come in their turn."""

import io
import sys
import threading
import time

import pytest
from tqdm import tqdm

from cxr_mm.core import progress
from cxr_mm.core.progress import ProgressBar, heartbeat, prefetch


@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_results_come_in_the_order_of_the_items(ahead):
    turn = threading.Event()

    def make(item):
        # The first is the last to be ready wherever another can be made meanwhile.
        if item == 0 and ahead:
            turn.wait(timeout=5)
        turn.set()
        return item * 10

    assert list(prefetch(make, range(7), ahead=ahead, threads=2)) == [n * 10 for n in range(7)]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_is_taken_than_is_asked_for(ahead):
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    created = prefetch(str, items(), ahead=ahead, threads=2)
    assert taken == []
    assert [next(created), next(created)] == ["0", "1"]
    assert len(taken) == 2 + ahead


def test_an_error_is_raised_when_its_turn_comes():
    created = prefetch(lambda n: 6 // n, [3, 2, 0, 1], ahead=3, threads=2)
    assert [next(created), next(created)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(created)


def test_whoever_stops_early_leaves_no_thread_behind():
    created = prefetch(str, range(1000), ahead=4, threads=2)
    next(created)
    created.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_heartbeat_comes_every_few_seconds_on_a_terminal_alone(terminal, capsys, monkeypatch):
    monkeypatch.setattr(progress, "HEARTBEAT", 0.02)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with heartbeat("fuse icu"):
        time.sleep(0.2)
        assert ("fuse icu: 0 s" in capsys.readouterr().err) == terminal


def test_a_heartbeat_says_what_is_done_at_once_and_again_or_redraws_the_bar_that_shows_it(capsys):
    with heartbeat("fuse icu", every=0.02):
        assert capsys.readouterr().err == "fuse icu\n"
        time.sleep(0.2)
        assert capsys.readouterr().err.startswith("fuse icu: 0 s\nfuse icu: 0 s\n")
        with tqdm(total=2, file=io.StringIO()) as bar:
            time.sleep(0.05)
            capsys.readouterr()
            time.sleep(0.2)
            assert capsys.readouterr().err == ""
            assert bar.fp.getvalue().count("0/2") > 2
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_in_a_log_the_heartbeat_says_how_many_of_how_many_the_rate_and_the_time_left(capsys):
    with (
        heartbeat("ingest icu", every=0.02),
        ProgressBar(desc="radiographs", unit="image", total=1200, initial=1000) as bar,
    ):
        bar.start_t -= 60
        bar.update(24)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ingest icu"
    wanted = "ingest icu: radiographs 1,024 of 1,200 images, 0.4 a second, 07:20 left, 0 s"
    assert wanted in [line.replace("0.399", "0.4").replace("07:21", "07:20") for line in lines]


def test_on_a_terminal_a_bar_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with heartbeat("score", every=0.02), ProgressBar(desc="studies", unit="study") as bar:
        bar.update(3)
        time.sleep(0.1)
    assert "\rstudies: 3study" in capsys.readouterr().err
