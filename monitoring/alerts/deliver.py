"""Tell: through every channel, once for each change; what cannot be delivered waits.

What is to be said goes into the database in the transaction that remembers it as said, and leaves
it when it was delivered. A crash in between says it twice, never not at all.
"""

from collections.abc import Callable, Mapping
from functools import partial

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection

from cxr_mm.core.errors import CxrError
from cxr_mm.prediction_log.database import database_errors
from monitoring.alerts.channels import post, send_mail, write_figures
from monitoring.alerts.notice import Notice
from monitoring.config import AlertSettings
from monitoring.scheduler.state import ALERTS, WAITING_ALERTS, State

MOST_WAITING = 100
"""Notices that wait for one channel; of more the oldest go."""
Send = Callable[[Notice], None]


class Alerts:
    """The channels of the settings, and what each was told last."""

    def __init__(self, state: State, settings: AlertSettings) -> None:
        self._state, self._settings = state, settings
        self._channels = _channels(settings)

    def tell(self, task: str, notice: Notice | None) -> list[str]:
        """Say what is new, and first what still waits; returns what could not be done.

        Args:
            task: whose.
            notice: what to say; None only delivers what waits.

        Raises:
            LogError: the database cannot be used.
        """
        troubles = []
        if notice is not None:
            if self._settings.prometheus:
                try:
                    write_figures(notice, self._settings.prometheus)
                except CxrError as error:
                    troubles.append(str(error))
            self._put(notice.at_least(self._settings.least))
        for name, send in self._channels.items():
            if trouble := self._deliver(name, task, send):
                troubles.append(trouble)
        return troubles

    def _put(self, notice: Notice) -> None:
        """Put a notice into the queue of each channel that was told something else last."""
        if notice.status == "too_small":
            return  # no judgement: what was said last still stands
        with database_errors(self._state.url), self._state.engine.begin() as connection:
            for channel in self._channels:
                if _last(connection, channel, notice.task) == notice.gist:
                    continue
                _remember(connection, channel, notice)
                stored = notice.model_dump(mode="json")
                row = {"channel": channel, "task": notice.task, "notice": stored}
                connection.execute(insert(WAITING_ALERTS), row)

    def _deliver(self, channel: str, task: str, send: Send) -> str:
        """Send what waits, oldest first, up to the first that fails; why, or nothing."""
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
    found: dict[str, Send] = {}
    if settings.webhook:
        found["webhook"] = partial(post, settings=settings.webhook)
    if settings.mail:
        found["mail"] = partial(send_mail, settings=settings.mail)
    return found


def _last(connection: Connection, channel: str, task: str) -> str:
    """The gist of what was said last; a channel that was never used knows of nothing bad."""
    query = select(ALERTS.c.said).where(ALERTS.c.channel == channel, ALERTS.c.task == task)
    return connection.scalar(query) or "ok"


def _remember(connection: Connection, channel: str, notice: Notice) -> None:
    key = {"channel": channel, "task": notice.task}
    mine = (ALERTS.c.channel == channel) & (ALERTS.c.task == notice.task)
    changed = connection.execute(update(ALERTS).where(mine).values(said=notice.gist))
    if not changed.rowcount:
        connection.execute(insert(ALERTS), {**key, "said": notice.gist})
