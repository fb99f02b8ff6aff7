"""A source of entities: a pump, tidb-binlog's or our own.

Both speak one protocol and mean different things by it:

    pump                what it sends                                  position
    tidb-binlog's       commits in order of commit_ts, each with its   0:commit_ts of the last one
                        prewrite in it; rollbacks and heartbeats
    our own (`server`)  what TiDB sent, in order of arrival            suffix:offset behind it

The entities are the same: a commit with its prewrite in it becomes both. Which pump it is shows in
every message: the former leaves the position in it empty.

What a tidb-binlog pump has deleted by its own age limit it skips, and says so in its log only: a
store must not fall behind that limit.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.clock import Clock
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
    """How long to wait for a pump, and how much to take from it at once.

    A poll ends when nothing has come for `idle_ms`, or after `poll_ms`; the stream stays open. One
    that is silent for `silence_ms` is opened anew, for a dead connection is silent too. After
    `deadline_ms` without a stream the poll fails.
    """

    idle_ms: int = 500
    poll_ms: int = 10_000
    silence_ms: int = 60_000
    deadline_ms: int = 30_000
    max_message_bytes: int = MAX_FRAME_BYTES


class PumpSource:
    """The binlog of one pump. A context manager: it keeps a connection."""

    def __init__(
        self,
        address: str,
        cluster_id: int,
        tls: TlsFiles | None = None,
        *,
        clock: Clock,
        limits: PullLimits | None = None,
    ) -> None:
        """`address`: HOST:PORT, or unix:PATH. Connects with the first poll."""
        self._address, self._cluster_id, self._tls = address, cluster_id, tls
        self._clock, self._limits = clock, limits or PullLimits()
        self._stream: PullStream | None = None
        self._heard_ms = 0
        self._position: str | None = None
        self._taken: str | None = None

    def __enter__(self) -> "PumpSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def position(self) -> str | None:
        """Where to go on: behind the last entity, or where `entities` began; None at the start.

        Of the two entities that one message may be, the first does not move it.
        """
        return self._position

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        """What comes behind the position `after`, until nothing more comes.

        Raises:
            PumpUnavailableError: there was no stream for too long.
            PumpRefusedError: it is another cluster's pump, or has no such position.
            OptionError: `after` is no position of a pump.
            BinlogCorruptionError, UnsupportedError: the next message cannot be read.
        """
        if after != self._taken:
            self.close()
        self._position = self._taken = after
        end_ms = self._clock.boottime_ms() + self._limits.poll_ms
        while entities := self._next(end_ms):
            yield from entities[:-1]
            self._position = self._taken
            yield entities[-1]

    def close(self) -> None:
        """Give up the connection; the next poll makes another."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _next(self, end_ms: int) -> tuple[Entity, ...]:
        """The entities of the next message; none if none comes in time."""
        failing_since, backoff_ms = self._clock.boottime_ms(), _BACKOFF_MS
        while True:
            now_ms = self._clock.boottime_ms()
            left_ms = failing_since + self._limits.deadline_ms - now_ms
            try:
                stream = self._stream or self._open(max(left_ms, 1))
                pulled = stream.next(max(0, min(self._limits.idle_ms, end_ms - now_ms)))
                return self._heard(pulled)
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

    def _heard(self, pulled: PulledBinlog | None) -> tuple[Entity, ...]:
        now_ms = self._clock.boottime_ms()
        if pulled is None:
            if now_ms - self._heard_ms > self._limits.silence_ms:
                self.close()
            return ()
        self._heard_ms = now_ms
        # A message may have no timestamp to go on behind; the next one will.
        if pulled.offset:
            self._taken = f"{pulled.suffix}:{pulled.offset}"
        where = f"pump {self._address}"
        return decode_entities(pulled.payload, where, pulled.offset, merged=pulled.merged)

    def _open(self, connect_ms: int) -> PullStream:
        suffix, offset = parse_position(self._taken)
        self._stream = PullStream(
            self._address,
            PullRequest(self._cluster_id, suffix, offset),
            self._tls,
            connect_ms=connect_ms,
            max_message_bytes=self._limits.max_message_bytes,
        )
        self._heard_ms = self._clock.boottime_ms()
        return self._stream


def parse_position(text: str | None) -> tuple[int, int]:
    """(suffix, offset) of a position; the start for None. Raises `OptionError`."""
    if text is None:
        return 0, 0
    suffix, _, offset = text.partition(":")
    for part, limit in ((suffix, 2**64), (offset, 2**63)):
        # 20 digits are enough for both, and int() of a huge text takes its time.
        number = part.isascii() and part.isdigit() and len(part) <= 20
        if not number or int(part) >= limit:
            raise OptionError("position", f"{text[:80]!r} is not of the form SUFFIX:OFFSET")
    return int(suffix), int(offset)
