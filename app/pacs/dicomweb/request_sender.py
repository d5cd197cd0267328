"""Sending by requests of HTTP, or into a folder: one object after the other."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from app.pacs.dicomweb.client import AwayError, DeclinedError
from app.pacs.queue import Delivery
from app.pacs.sender import Sender


class RequestSender(Sender, ABC):
    """Sends to one destination, with the queue and the pauses of every sender."""

    @abstractmethod
    def _put(self, delivery: Delivery, data: bytes) -> None:
        """Hand over one object, in place of an earlier one of the same UID.

        Raises:
            AwayError: the destination cannot be had now.
            DeclinedError: it does not take this one.
        """

    def _deliver(self, due: Sequence[Delivery]) -> None:
        for number, delivery in enumerate(due):
            try:
                with self._stages.timed("send"):
                    self._put(delivery, self._storage.path(delivery.file).read_bytes())
            except FileNotFoundError:
                self._queue.bury(delivery, "its file is gone")
            except AwayError as error:
                self._note(str(error))
                self._failed(due[number:], str(error))
                return
            except DeclinedError as error:
                self._note()
                self._failed([delivery], str(error))
            else:
                self._note()
                self._queue.sent(delivery)
