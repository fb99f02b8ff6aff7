"""Stripes of a load, read by processes and published piece by piece."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Final, Protocol

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import SchemaOutdatedError, TheFlashError
from pyspark_theflash.replication.load.scan import LoadPiece
from pyspark_theflash.storage.engine.api import Publication, VersionBatch, WriterEngine
from pyspark_theflash.storage.store.load import Stripe
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.tidb.codec.key import RawKey

PIECES_BYTES: Final = 96 << 20
"""The size of the keys and values of all pieces that are in memory at the same time."""
_PIECE_BYTES_MAX: Final = 12 << 20
_RETRY_MS: Final = 1_000
_STALLED_MS: Final = 600_000
"""The longest time without progress after errors of TiKV; the load is retried until then."""
_LOOK_S: Final = 0.5
_log = logging.getLogger(__name__)


class PiecePool(Protocol):
    """Readers of pieces, which may work at the same time."""

    def read(self, start: RawKey, end: RawKey) -> "Future[LoadPiece]": ...

    def close(self) -> None: ...


def piece_bytes(processes: int) -> int:
    """Return the size of a piece, of which there is one for each process and one more."""
    return min(_PIECE_BYTES_MAX, PIECES_BYTES // (processes + 1))


def publish_piece(
    engine: WriterEngine, stripe: Stripe, piece: LoadPiece, versions: Iterable[VersionBatch]
) -> Stripe:
    """Publish the versions of a piece with the key to continue at; return the remaining stripe."""
    left = replace(stripe, next=piece.next, rows=stripe.rows + piece.rows)
    engine.publish(Publication(versions, ManifestChange([left.to_record()])))
    return left


class Reading:
    """Pieces that a pool reads, at most `most` at the same time.

    `publish` publishes a piece of a stripe, and returns what is left of the stripe. `set_aside` is
    called with a stripe that cannot be read and the error; it returns whether the others go on.
    """

    def __init__(
        self,
        pool: PiecePool,
        most: int,
        stripes: Sequence[Stripe],
        publish: Callable[[Stripe, LoadPiece], Stripe],
        clock: Clock,
        set_aside: Callable[[Stripe, TheFlashError], bool] = lambda stripe, error: False,
    ) -> None:
        self._pool, self._most, self._clock = pool, most, clock
        self._waiting = deque(stripes)
        self._publish, self._set_aside = publish, set_aside
        self._running: dict[Future[LoadPiece], Stripe] = {}
        self._stalled: Deadline | None = None

    @property
    def is_done(self) -> bool:
        """Whether all pieces are published."""
        return not (self._waiting or self._running)

    def step(self, timeout_s: float = _LOOK_S) -> None:
        """Publish what has been read; wait at most `timeout_s` for it.

        Raises errors that do not pass, and the others after ten minutes without progress.
        """
        while self._waiting and len(self._running) < self._most:
            stripe = self._waiting.popleft()
            self._running[self._pool.read(stripe.next, stripe.end)] = stripe
        for future in wait(self._running, timeout_s, FIRST_COMPLETED).done:
            self._finish(self._running.pop(future), future)

    def _finish(self, stripe: Stripe, future: "Future[LoadPiece]") -> None:
        try:
            piece = future.result()
        except TheFlashError as error:
            if not self._set_aside(stripe, error):
                self._failed(error)
                self._waiting.append(stripe)
            return
        self._stalled = None
        left = self._publish(stripe, piece)
        if not left.is_done:
            self._waiting.appendleft(left)

    def _failed(self, error: TheFlashError) -> None:
        """Wait after an error that may pass. Raises other errors, and those that last."""
        if isinstance(error, SchemaOutdatedError) or not error.retryable:
            raise error
        self._stalled = self._stalled or Deadline(self._clock, _STALLED_MS)
        if not self._stalled.sleep_ms(_RETRY_MS):
            raise error
        _log.warning("the load retries after an error: %s", error)
