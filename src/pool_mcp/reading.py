"""Reads transcripts and prices what they show, in a process of its own where there is much to read.

Reading takes as long as booking, so beside it an import takes half the time. What passes between the two processes are
parcels of plain tuples: sent while the parcel before is being booked, and no faster than they are taken.
"""

import itertools
import logging
import marshal
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from pool_mcp.claude import transcripts
from pool_mcp.claude.transcripts import Mark, SeenCall
from pool_mcp.errors import LedgerError
from pool_mcp.pricing import price_nanousd

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

log = logging.getLogger(__name__)

PARCEL_CALLS = 2000
PARCEL_STRETCHES = 500

Task = tuple[str, Mark]
"""A transcript's path, and how far it has been read."""

Call = tuple[int, str, int, str, int, int, int, int, int, int, int | None]
"""Key, message id, instant (ms), model, the six classes of :class:`~pool_mcp.model.Tokens`, price (nano-dollars; None
where unknown)."""


class Stretch(NamedTuple):
    """What was read of the ``number``-th transcript; of each there is a last stretch, which holds no calls."""

    number: int
    calls: list[Call]
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
    with suppress(BrokenPipeError, KeyboardInterrupt):  # nobody wants any more
        parcel: list[tuple[object, ...]] = []
        calls = 0
        for stretch in _read(tasks, block_bytes):
            parcel.append(tuple(stretch))
            calls += len(stretch.calls)
            if calls >= PARCEL_CALLS or len(parcel) >= PARCEL_STRETCHES:
                to.send_bytes(marshal.dumps(parcel))
                parcel, calls = [], 0
        to.send_bytes(marshal.dumps(parcel))
        to.send_bytes(marshal.dumps([]))


def _received(reader: "Connection") -> Iterator[Stretch]:
    while True:
        try:
            parcel = marshal.loads(reader.recv_bytes())  # noqa: S302  (from our own process)
        except EOFError:
            raise LedgerError("The process that reads the transcripts was killed; import again.") from None
        if not parcel:
            return
        yield from map(Stretch._make, parcel)


def _read(tasks: Sequence[Task], block_bytes: int) -> Iterator[Stretch]:
    return itertools.chain.from_iterable(
        _read_one(number, path, mark, block_bytes) for number, (path, mark) in enumerate(tasks)
    )


def _read_one(number: int, path: str, mark: Mark, block_bytes: int) -> Iterator[Stretch]:
    try:
        for portion in transcripts.read_calls(path, mark, block_bytes):
            mark = portion.mark
            calls = [_priced(call) for call in portion.calls]
            yield Stretch(number, calls, portion.malformed, portion.read_bytes, mark.offset, mark.digest)
    except OSError as error:
        log.warning("%s cannot be read: %s", path, error)
        yield Stretch(number, [], 0, 0, mark.offset, mark.digest, is_last=True, is_unreadable=True)
    else:
        yield Stretch(number, [], 0, 0, mark.offset, mark.digest, is_last=True)


def _priced(call: SeenCall) -> Call:
    tokens = call.tokens
    return (
        call.key,
        call.message_id,
        call.at_ms,
        call.model,
        tokens.input,
        tokens.output,
        tokens.cache_creation_5m,
        tokens.cache_creation_1h,
        tokens.cache_read,
        tokens.web_search_requests,
        price_nanousd(call.model, tokens, call.at_ms, fast=call.fast, us_only=call.us_only),
    )
