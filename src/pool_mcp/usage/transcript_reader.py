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
from pool_mcp.claude.transcripts import ReadPosition
from pool_mcp.errors import LedgerError
from pool_mcp.model import TokenCounts

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

log = logging.getLogger(__name__)

PARCEL_CALLS = 2000
PARCEL_CHUNKS = 500
PARCELS_READY = 8
_THE_END = marshal.dumps([])
"""Whoever hears nothing more without having heard this knows that the reading process failed."""

Task = tuple[str, ReadPosition]
"""A transcript's path, and how far it has been read."""

CallRow = tuple[int, str, int, str, TokenCounts, bool, bool, str, str]
"""A :class:`~pool_mcp.claude.transcripts.TranscriptCall` without its names, as which it can be sent."""


class FileChunk(NamedTuple):
    """What was read of the ``number``-th transcript, of each at least one."""

    number: int
    calls: Sequence[CallRow]
    malformed: int
    read_bytes: int
    offset: int
    digest: int
    is_last: bool = False
    is_unreadable: bool = False


@contextmanager
def read_files(tasks: Sequence[Task], block_bytes: int, *, apart: bool) -> Iterator[Iterator[FileChunk]]:
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
        for chunk in _read(tasks, block_bytes):
            parcel.append((chunk.number, [tuple(call) for call in chunk.calls], *chunk[2:]))
            calls += len(chunk.calls)
            if calls >= PARCEL_CALLS or len(parcel) >= PARCEL_CHUNKS:
                ready.put(marshal.dumps(parcel))
                parcel, calls = [], 0
        ready.put(marshal.dumps(parcel))
        ready.put(_THE_END)
    finally:
        ready.put(b"")


def _received(reader: "Connection") -> Iterator[FileChunk]:
    while True:
        try:
            parcel = marshal.loads(reader.recv_bytes())  # noqa: S302  (from our own process)
        except (EOFError, OSError):  # OSError: in the midst of a parcel
            raise LedgerError("The process that reads the transcripts was killed; import again.") from None
        if not parcel:
            return
        yield from map(FileChunk._make, parcel)


def _read(tasks: Sequence[Task], block_bytes: int) -> Iterator[FileChunk]:
    return itertools.chain.from_iterable(
        _read_one(number, path, position, block_bytes) for number, (path, position) in enumerate(tasks)
    )


def _read_one(number: int, path: str, position: ReadPosition, block_bytes: int) -> Iterator[FileChunk]:
    so_far: FileChunk | None = None  # told when it is known whether it is the last
    is_unreadable = False
    try:
        for chunk in transcripts.read_calls(path, position, block_bytes):
            if so_far:
                yield so_far
            position = chunk.position
            so_far = FileChunk(number, chunk.calls, chunk.malformed, chunk.read_bytes, position.offset, position.digest)
    except OSError as error:
        log.warning("%s cannot be read: %s", path, error)
        is_unreadable = True
    so_far = so_far or FileChunk(number, [], 0, 0, position.offset, position.digest)
    yield so_far._replace(is_last=True, is_unreadable=is_unreadable)
