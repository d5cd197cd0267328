"""Tell: who hears what how often, and that nothing is lost while no one listens."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, select

from cxr_mm.core.errors import ParamsError
from monitoring.alerts import Alerts, Notice
from monitoring.config import AlertSettings
from monitoring.scheduler.cron import Window
from monitoring.scheduler.state import WAITING_ALERTS


@pytest.fixture
def settings(receiver, mailbox, monkeypatch, tmp_path):
    monkeypatch.setenv("HOOK_KEY", "a key of the receiver")
    return AlertSettings.model_validate(
        {
            "webhook": {"url": receiver.address, "secret_variable": "HOOK_KEY", "tries": 1},
            "mail": {
                "host": "127.0.0.1",
                "port": mailbox.server_address[1],
                "security": "none",
                "sender": "cxr@example.org",
                "recipients": ["ada@example.org"],
            },
            "prometheus": {"folder": str(tmp_path / "prometheus")},
        }
    )


@pytest.fixture
def send(state, settings):
    """Publish, queue and deliver a notice; returns failures in words."""

    def sent(result, settings=settings):
        alerts = Alerts(state, settings)
        alerts.publish(result)
        with state.engine.begin() as connection:
            alerts.queue(result, connection)
        return alerts.deliver("icu")

    return sent


def statuses(receiver):
    return [json.loads(body)["status"] for _, _, body in receiver.got]


def test_each_change_is_sent_once_on_each_channel(state, settings, receiver, mailbox, notice, send):
    alerts = Alerts(state, settings)
    for result in (
        notice("ok"),
        notice("alarm"),
        notice("alarm"),
        notice("too_small"),
        notice("alarm"),
        notice("alarm", names=("clinical.age", "view")),
        notice("ok"),
        notice("ok"),
    ):
        assert send(result) == []
    assert not alerts.waits("icu")
    assert alerts.deliver("icu") == []
    assert statuses(receiver) == ["alarm", "alarm", "ok"]
    assert len(mailbox.got) == 3


def test_the_same_of_another_model_is_sent(receiver, notice, send):
    other = {"digest": "b" * 64}
    calm, alarm = notice("ok"), notice("alarm")
    for result in (
        calm,
        calm.model_copy(update=other),
        alarm,
        alarm.model_copy(update=other),
        alarm,
    ):
        send(result)
    assert [json.loads(body)["digest"][0] for _, _, body in receiver.got] == ["a", "b", "a"]
    assert set(statuses(receiver)) == {"alarm"}


def test_what_could_not_be_delivered_is_sent_later_in_order(
    state, settings, receiver, mailbox, notice, send
):
    receiver.answers += [503, 503]
    alerts = Alerts(state, settings)
    assert "answered 503" in send(notice("alarm"))[0]
    assert len(send(notice("ok"))) == 1
    assert len(mailbox.got) == 2  # the other channel was not held up
    assert alerts.waits("icu")
    assert alerts.deliver("icu") == []
    assert statuses(receiver) == ["alarm", "alarm", "alarm", "ok"]
    with state.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(WAITING_ALERTS)) == 0


def test_below_the_least_level_nothing_is_sent(settings, receiver, notice, send):
    strict = settings.model_copy(update={"least": "alarm"})
    for result in (notice("warn", level="warn"), notice("alarm"), notice("warn", level="warn")):
        send(result, strict)
    assert statuses(receiver) == ["alarm", "ok"]


def test_a_report_that_failed_is_sent_and_so_is_its_end(receiver, notice, send):
    failed = Notice.of_failure("icu", "a" * 64, Window(notice().since, notice().until))
    for result in (failed, failed, notice("ok")):
        send(result)
    assert statuses(receiver) == ["failed", "ok"]


def test_prometheus_finds_the_newest_verdict_in_whole_files(settings, notice, send):
    folder = settings.prometheus.folder
    for status, value in (("alarm", 2), ("too_small", -1), ("ok", 0)):
        send(notice(status))
        families = text_string_to_metric_families((folder / "cxr_mm_icu.prom").read_text())
        (*samples,) = (sample for family in families for sample in family.samples)
        figures = {sample.name.removeprefix("cxr_mm_monitoring_"): sample for sample in samples}
        assert (figures["verdict"].value, figures["studies"].value) == (value, 60)
        assert figures["verdict"].labels == {"task": "icu", "digest": "a" * 64}
        assert figures["window_end_seconds"].value == notice().until.timestamp()
    assert [path.name for path in folder.iterdir()] == ["cxr_mm_icu.prom"]


def test_a_folder_that_cannot_be_written_is_a_stated_reason(state, settings, notice, tmp_path):
    (tmp_path / "file").write_text("")
    wrong = settings.prometheus.model_copy(update={"folder": tmp_path / "file"})
    alerts = Alerts(state, settings.model_copy(update={"prometheus": wrong}))
    with pytest.raises(ParamsError, match="cannot be written"):
        alerts.publish(notice("alarm"))
