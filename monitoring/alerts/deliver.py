"""Delivery: each change goes once to every channel; undelivered notices wait in the database.

A notice is queued in the transaction that stores the verdict, and it as the channel's last. It is
removed after delivery. A crash in between delivers it twice, never not at all.
"""

from collections.abc import Callable, Mapping
from functools import partial

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection

from cxr_mm.alerts.channels import post, send_mail
from cxr_mm.core.errors import CxrError
from cxr_mm.prediction_log.database import database_errors
from monitoring.alerts.figures import write_figures
from monitoring.alerts.notice import Notice
from monitoring.config import AlertSettings
from monitoring.scheduler.state import ALERTS, RUNNERS, WAITING_ALERTS, State

MOST_WAITING = 100
"""Longest queue of a channel; beyond it the oldest notices are dropped."""
Send = Callable[[Notice], None]


class Alerts:
    """Alert channels of the settings, and the last notice of each."""

    def __init__(self, state: State, settings: AlertSettings) -> None:
        self._state, self._settings = state, settings
        self._channels = _channels(settings)

    def publish(self, notice: Notice) -> None:
        """Write the figures of a notice for Prometheus, where the settings name a folder.

        Raises:
            ParamsError: they cannot be written.
        """
        if self._settings.prometheus:
            write_figures(notice, self._settings.prometheus)

    def queue(self, notice: Notice, connection: Connection) -> None:
        """Queue a notice for each channel whose last notice has another content."""
        notice = notice.at_least(self._settings.least)
        if notice.status == "too_small":
            return  # no verdict: the last notice remains valid
        # Another model of the task may have a verdict at the same moment.
        task = RUNNERS.c.task == notice.task
        connection.execute(select(RUNNERS.c.task).where(task).with_for_update())
        for channel in self._channels:
            if _last(connection, channel, notice.task) == notice.content_key:
                continue
            _remember(connection, channel, notice)
            stored = notice.model_dump(mode="json")
            row = {"channel": channel, "task": notice.task, "notice": stored}
            connection.execute(insert(WAITING_ALERTS), row)

    def waits(self, task: str) -> bool:
        """Whether notices of a task are queued.

        Raises:
            LogError: the database cannot be used.
        """
        c = WAITING_ALERTS.c
        query = select(c.alert_id).where(c.task == task, c.channel.in_(self._channels)).limit(1)
        with database_errors(self._state.url), self._state.engine.connect() as connection:
            return connection.scalar(query) is not None

    def deliver(self, task: str) -> list[str]:
        """Deliver the queue of a task; returns failures in words. For one process at a time.

        Raises:
            LogError: the database cannot be used.
        """
        delivered = (self._deliver(name, task, send) for name, send in self._channels.items())
        return [trouble for trouble in delivered if trouble]

    def _deliver(self, channel: str, task: str, send: Send) -> str:
        """Send the queue, oldest first, up to the first failure; returns its message, if any."""
        table = WAITING_ALERTS
        own = (table.c.channel == channel) & (table.c.task == task)
        with database_errors(self._state.url), self._state.engine.connect() as connection:
            query = select(table.c.alert_id, table.c.notice).where(own).order_by(table.c.alert_id)
            rows = connection.execute(query).all()
        sent, trouble = [row.alert_id for row in rows[:-MOST_WAITING]], ""
        for row in rows[-MOST_WAITING:]:
            try:
                send(Notice.model_validate(row.notice))
            except CxrError as error:
                trouble = str(error)
                break
            sent.append(row.alert_id)
        if sent:
            with database_errors(self._state.url), self._state.engine.begin() as connection:
                connection.execute(delete(table).where(table.c.alert_id.in_(sent)))
        return trouble


def _channels(settings: AlertSettings) -> Mapping[str, Send]:
    channels: dict[str, Send] = {}
    if settings.webhook:
        channels["webhook"] = partial(post, settings=settings.webhook)
    if settings.mail:
        channels["mail"] = partial(send_mail, settings=settings.mail)
    return channels


def _last(connection: Connection, channel: str, task: str) -> str:
    """Content of the last notice; `ok` for a channel that was never used."""
    query = select(ALERTS.c.content).where(ALERTS.c.channel == channel, ALERTS.c.task == task)
    return connection.scalar(query) or "ok"


def _remember(connection: Connection, channel: str, notice: Notice) -> None:
    mine = (ALERTS.c.channel == channel) & (ALERTS.c.task == notice.task)
    connection.execute(delete(ALERTS).where(mine))
    row = {"channel": channel, "task": notice.task, "content": notice.content_key}
    connection.execute(insert(ALERTS), row)
