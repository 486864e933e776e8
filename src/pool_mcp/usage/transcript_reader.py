"""Reads transcripts, in a process of its own where there is much to read.

Reading takes longer than pricing and booking, so beside it an import takes half the time. What passes between the two
processes are parcels of plain tuples, of which a few lie ready while those before are being booked.
"""

import itertools
import logging
import marshal
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from pool_mcp.claude import transcripts
from pool_mcp.claude.transcripts import Mark
from pool_mcp.errors import LedgerError
from pool_mcp.model import Classes

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

log = logging.getLogger(__name__)

PARCEL_CALLS = 2000
PARCEL_STRETCHES = 500
PARCELS_READY = 8
_THE_END = marshal.dumps([])
"""Whoever hears nothing more without having heard this knows that the reading process failed."""

Task = tuple[str, Mark]
"""A transcript's path, and how far it has been read."""

Seen = tuple[int, str, int, str, Classes, bool, bool]
"""A :class:`~pool_mcp.claude.transcripts.SeenCall` without its names, as which it can be sent."""


class Stretch(NamedTuple):
    """What was read of the ``number``-th transcript, of each at least one."""

    number: int
    calls: Sequence[Seen]
    malformed: int
    read_bytes: int
    offset: int
    digest: int
    is_last: bool = False
    is_unreadable: bool = False


@contextmanager
def stretches(tasks: Sequence[Task], block_bytes: int, *, apart: bool) -> Iterator[Iterator[Stretch]]:
    """All that transcripts show, one after the other; ``apart``: read by a process of its own.

    Raises:
        LedgerError: that process was killed.
    """
    if not apart:
        yield _read(tasks, block_bytes)
        return
    context = multiprocessing.get_context("spawn")  # this process has threads, which a fork would break
    ours, theirs = context.Pipe(duplex=False)
    reader = context.Process(target=_send, args=(theirs, tasks, block_bytes), daemon=True)
    reader.start()
    theirs.close()
    try:
        yield _received(ours)
    finally:
        ours.close()  # makes it stop
        reader.join()


def _send(to: "Connection", tasks: Sequence[Task], block_bytes: int) -> None:
    """Be the reading process."""
    # A pipe holds less than one parcel: without parcels lying ready, each side would wait a fifth of the time for the
    # other.
    ready: Queue[bytes] = Queue(PARCELS_READY)
    Thread(target=_make_ready, args=(ready, tasks, block_bytes), daemon=True).start()
    with suppress(BrokenPipeError, KeyboardInterrupt):  # nobody wants any more
        while parcel := ready.get():
            to.send_bytes(parcel)


def _make_ready(ready: Queue[bytes], tasks: Sequence[Task], block_bytes: int) -> None:
    parcel: list[tuple[object, ...]] = []
    calls = 0
    try:
        for stretch in _read(tasks, block_bytes):
            parcel.append((stretch.number, [tuple(call) for call in stretch.calls], *stretch[2:]))
            calls += len(stretch.calls)
            if calls >= PARCEL_CALLS or len(parcel) >= PARCEL_STRETCHES:
                ready.put(marshal.dumps(parcel))
                parcel, calls = [], 0
        ready.put(marshal.dumps(parcel))
        ready.put(_THE_END)
    finally:
        ready.put(b"")


def _received(reader: "Connection") -> Iterator[Stretch]:
    while True:
        try:
            parcel = marshal.loads(reader.recv_bytes())  # noqa: S302  (from our own process)
        except (EOFError, OSError):  # OSError: in the midst of a parcel
            raise LedgerError("The process that reads the transcripts was killed; import again.") from None
        if not parcel:
            return
        yield from map(Stretch._make, parcel)


def _read(tasks: Sequence[Task], block_bytes: int) -> Iterator[Stretch]:
    return itertools.chain.from_iterable(
        _read_one(number, path, mark, block_bytes) for number, (path, mark) in enumerate(tasks)
    )


def _read_one(number: int, path: str, mark: Mark, block_bytes: int) -> Iterator[Stretch]:
    so_far: Stretch | None = None  # told when it is known whether it is the last
    is_unreadable = False
    try:
        for portion in transcripts.read_calls(path, mark, block_bytes):
            if so_far:
                yield so_far
            mark = portion.mark
            so_far = Stretch(number, portion.calls, portion.malformed, portion.read_bytes, mark.offset, mark.digest)
    except OSError as error:
        log.warning("%s cannot be read: %s", path, error)
        is_unreadable = True
    so_far = so_far or Stretch(number, [], 0, 0, mark.offset, mark.digest)
    yield so_far._replace(is_last=True, is_unreadable=is_unreadable)
