"""Interface of a change feed: the committed changes of key spans, and the frontier of the spans."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.tidb.codec.key import RawKey


@dataclass(frozen=True, slots=True)
class MetaChange:
    """A committed write of a meta key; `value` is None if the key was deleted."""

    key: RawKey
    commit_ts: TimeStamp
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Taken:
    """Committed changes: rows in unordered chunks, and changes of meta keys by commit_ts.

    `large` are the rows of transactions too large for memory, by commit_ts; each chunk has one.
    `versions` and then `large` can be iterated once: chunks are read from a temporary file while
    iterating, which raises `CorruptionError` or `EngineError` if the file is damaged.
    """

    versions: Iterable[Versions]
    meta: Sequence[MetaChange] = ()
    large: Iterable[Versions] = ()


@dataclass(frozen=True, slots=True)
class FeedState:
    """Size of a feed, for its operator.

    Attributes:
        streaming: requests whose regions send changes as they are committed.
        scanning: requests whose regions send what was committed before.
        waiting: ranges of keys without a request.
        buffered_bytes: memory of committed changes that are not taken yet.
        prewrite_bytes: memory of changes that are not committed yet.
        spilled_bytes: size of temporary files.
    """

    streaming: int = 0
    scanning: int = 0
    waiting: int = 0
    buffered_bytes: int = 0
    prewrite_bytes: int = 0
    spilled_bytes: int = 0


class ChangeFeed(Protocol):
    """Source of the changes of key spans. Used by one thread."""

    def subscribe(self, span: RawKeyRange, checkpoint_ts: TimeStamp) -> None:
        """Deliver every change of a span above `checkpoint_ts` from now on.

        A span is the range of the records of a physical table, or a range of meta keys.
        """

    def unsubscribe(self, span: RawKeyRange) -> None:
        """Deliver no more changes of a span, which no longer counts for the frontier."""

    def poll(self, timeout_ms: int) -> None:
        """Receive pending messages; wait at most `timeout_ms` for the first one.

        Raises:
            TheFlashError: The feed cannot be continued, or not now (`retryable`).
        """

    @property
    def resolved_ts(self) -> TimeStamp:
        """The frontier: the minimum over all spans. No commit at or below it is missing."""

    @property
    def state(self) -> FeedState:
        """Its size. May be read by other threads."""

    def take(self, up_to: TimeStamp) -> Taken:
        """Remove and return the changes with commit_ts <= `up_to`, which is not above the frontier.

        A row may be returned twice with the same commit_ts.
        """

    def close(self) -> None:
        """End all streams."""
