"""Hostile peers of a node: recorded associations with one unit cut short, changed or prolonged."""

import random
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pydicom.dataset import Dataset
from pynetdicom import evt

from benchmarks.system.pacs_peers import associated

TIMEOUT = 0.05
"""Seconds that a hostile peer waits for an answer to each unit."""
AT_ONCE = 4


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Bytes cut short, changed, doubled, or with a length of four gigabytes."""
    found, at = bytearray(data), draw.randrange(len(data))
    match draw.randrange(6):
        case 0:
            del found[at:]
        case 1:
            for _ in range(draw.randint(1, 20)):
                found[draw.randrange(len(found))] = draw.randrange(256)
        case 2:
            found[at : at + 4] = b"\xff" * 4
        case 3:
            found[at:at] = found[: draw.randrange(len(found))]
        case 4:
            found[at:at] = draw.randbytes(draw.randint(1, 300))
        case 5:
            del found[at : at + draw.randint(1, 50)]
    return bytes(found) or b"\0"


def recorded(port: int, image: Dataset) -> list[bytes]:
    """What a peer sends for an association with an object, unit by unit."""
    sent: list[bytes] = []
    handlers = [(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))]
    association = associated(port, evt_handlers=handlers)
    association.send_c_store(image)
    association.release()
    return sent


def spoken(port: int, units: Sequence[bytes]) -> None:
    """Send units one after the other, as long as the node listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as peer:
            for unit in units:
                peer.sendall(unit)
                try:
                    peer.recv(1 << 16)
                except TimeoutError:
                    continue
    except OSError:
        return


def attack(port: int, units: Sequence[bytes], number: int, draw: random.Random) -> None:
    """Say so many associations, each with one of its units mutated, a few at once."""
    hostile = []
    for _ in range(number):
        which = draw.randrange(len(units))
        hostile.append([*units[:which], mutated(units[which], draw), *units[which + 1 :]])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(partial(spoken, port), hostile))
