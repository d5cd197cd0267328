"""Figures of the node over HTTP."""

import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.pacs.queue import Outgoing
from app.pacs.queue.watched import note_peer
from app.pacs.sections.watch import MetricsSettings
from app.pacs.watch.metrics import NodeMetrics
from benchmarks.system.pacs_peers import free_port
from cxr_mm.core.errors import LogError, ParamsError
from tests.app.pacs.conftest import arrival


@pytest.fixture
def figures(queue):
    """Asks a served node for its figures: (name, labels) → value."""
    metrics, settings = NodeMetrics(queue), MetricsSettings(port=free_port())
    metrics.observe("decode", 0.07)
    with metrics.served(settings):
        with pytest.raises(ParamsError, match="cannot be had"), metrics.served(settings):
            pass

        def ask():
            with urllib.request.urlopen(f"http://127.0.0.1:{settings.port}/metrics") as answer:
                text = answer.read().decode()
            return {
                (sample.name, *sorted(sample.labels.values())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }

        yield ask


def test_stages_states_refusals_and_ages_are_served(figures, queue, clock):
    queue.add(arrival("1.1"))
    queue.add(arrival("1.2"))
    out = Outgoing("archive", "sr", "2.25.7", "outbox/7.dcm")
    queue.finish(queue.claim(), "answered", "a", outgoing=[out])
    queue.count("disk full", "archive")
    note_peer(queue, "archive", "cannot be reached")
    clock.move(90)
    found = figures()
    assert found["cxr_mm_pacs_stage_seconds_bucket", "0.05", "decode"] == 0
    assert found["cxr_mm_pacs_stage_seconds_bucket", "0.1", "decode"] == 1
    assert found["cxr_mm_pacs_images", "answered"] == 1
    assert found["cxr_mm_pacs_queue_length",] == 1
    assert found["cxr_mm_pacs_queue_age_seconds",] == 90
    assert found["cxr_mm_pacs_deliveries", "archive", "waiting"] == 1
    assert found["cxr_mm_pacs_counts_total", "archive", "disk full"] == 1
    assert found["cxr_mm_pacs_peer_away_seconds", "archive"] == 90
    assert found["cxr_mm_pacs_queue_up",] == 1


def test_figures_are_served_while_the_queue_is_away(figures, queue, monkeypatch):
    def away():
        raise LogError("away")

    monkeypatch.setattr(queue, "reading", away)
    found = figures()
    assert found["cxr_mm_pacs_queue_up",] == 0
    assert found["cxr_mm_pacs_stage_seconds_count", "decode"] == 1
