"""Source that pulls from a pump: tidb-binlog's or our own.

Both use the same protocol, with different contents:

    pump                messages                                       position
    tidb-binlog's       commits in order of commit_ts, each with its   0:commit_ts of the last
                        prewrite in it; rollbacks and heartbeats
    our own (`server`)  TiDB's messages in order of arrival            suffix:offset after the last

The entities are the same: a commit that contains its prewrite is decoded into both. Messages of a
tidb-binlog pump have an empty position, which distinguishes the two.

A tidb-binlog pump skips messages that it has deleted by age, and reports this only in its own log:
a store must not fall behind the pump's retention.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import OptionError, PumpUnavailableError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.replication.pump.wire import PulledBinlog, PullRequest
from pyspark_theflash.replication.source.event import Entity
from pyspark_theflash.replication.source.frame import MAX_FRAME_BYTES
from pyspark_theflash.replication.source.pull_stream import PullStream
from pyspark_theflash.replication.source.wire import decode_entities

_log = logging.getLogger(__name__)
_BACKOFF_MS: Final = 100
_BACKOFF_MS_MAX: Final = 2000


@dataclass(frozen=True, slots=True)
class PullLimits:
    """Time limits of a poll, and the maximum message size.

    A poll ends when no message arrives for `idle_ms`, or after `poll_ms`; the stream stays open. A
    stream without messages for `silence_ms` is reopened, since its connection may be dead. The poll
    fails if no stream can be opened for `deadline_ms`.
    """

    idle_ms: int = 500
    poll_ms: int = 10_000
    silence_ms: int = 60_000
    deadline_ms: int = 30_000
    max_message_bytes: int = MAX_FRAME_BYTES


class PumpSource:
    """Binlog of one pump. A context manager that closes the connection."""

    def __init__(
        self,
        address: str,
        cluster_id: int,
        tls: TlsFiles | None = None,
        *,
        clock: Clock,
        limits: PullLimits | None = None,
    ) -> None:
        """Set up the source for `address`, HOST:PORT or unix:PATH. The first poll connects."""
        self._address, self._cluster_id, self._tls = address, cluster_id, tls
        self._clock, self._limits = clock, limits or PullLimits()
        self._stream: PullStream | None = None
        self._received_ms = 0
        self._position: str | None = None
        self._received: str | None = None

    def __enter__(self) -> "PumpSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def position(self) -> str | None:
        """Position after the last entity, or where `entities` started; None at the beginning.

        If one message yields two entities, the position advances with the second.
        """
        return self._position

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        """Yield the entities after position `after` until no more arrive.

        Raises:
            PumpUnavailableError: No stream could be opened within `deadline_ms`.
            PumpRefusedError: The pump belongs to another cluster, or does not have the position.
            OptionError: `after` is not a position of a pump.
            BinlogCorruptionError, UnsupportedError: The next message cannot be decoded.
        """
        if after != self._received:
            self.close()
        self._position = self._received = after
        poll = Deadline(self._clock, self._limits.poll_ms)
        while entities := self._next(poll):
            yield from entities[:-1]
            self._position = self._received
            yield entities[-1]

    def close(self) -> None:
        """Close the connection; the next poll opens another."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _next(self, poll: Deadline) -> tuple[Entity, ...]:
        """Return the entities of the next message; () if none arrives in time."""
        opening, backoff_ms = Deadline(self._clock, self._limits.deadline_ms), _BACKOFF_MS
        while True:
            left_ms = opening.left_ms()
            try:
                stream = self._stream or self._open(max(left_ms, 1))
                pulled = stream.next(min(self._limits.idle_ms, poll.left_ms()))
                return self._decode(pulled)
            except PumpUnavailableError as error:
                self.close()
                if left_ms <= backoff_ms:
                    raise
                _log.warning("pump stream lost: %s", error)
                self._clock.sleep_ms(backoff_ms)
                backoff_ms = min(2 * backoff_ms, _BACKOFF_MS_MAX)
            except BaseException:
                self.close()
                raise

    def _decode(self, pulled: PulledBinlog | None) -> tuple[Entity, ...]:
        now_ms = self._clock.boottime_ms()
        if pulled is None:
            if now_ms - self._received_ms > self._limits.silence_ms:
                self.close()
            return ()
        self._received_ms = now_ms
        # A message may have no timestamp to continue after; then the position stays.
        if pulled.offset:
            self._received = f"{pulled.suffix}:{pulled.offset}"
        where = f"pump {self._address}"
        return decode_entities(pulled.payload, where, pulled.offset, merged=pulled.merged)

    def _open(self, connect_ms: int) -> PullStream:
        suffix, offset = parse_position(self._received)
        self._stream = PullStream(
            self._address,
            PullRequest(self._cluster_id, suffix, offset),
            self._tls,
            connect_ms=connect_ms,
            max_message_bytes=self._limits.max_message_bytes,
        )
        self._received_ms = self._clock.boottime_ms()
        return self._stream


def parse_position(text: str | None) -> tuple[int, int]:
    """Parse SUFFIX:OFFSET; (0, 0), the start, for None. Raises `OptionError`."""
    if text is None:
        return 0, 0
    suffix, _, offset = text.partition(":")
    for part, limit in ((suffix, 2**64), (offset, 2**63)):
        # 20 digits are enough for both, and int() of a huge text is slow.
        is_number = part.isascii() and part.isdigit() and len(part) <= 20
        if not is_number or int(part) >= limit:
            raise OptionError("position", f"{text[:80]!r} is not of the form SUFFIX:OFFSET")
    return int(suffix), int(offset)
