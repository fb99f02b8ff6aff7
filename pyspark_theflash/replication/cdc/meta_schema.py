"""Schema history that follows a change feed of the meta keys.

The history begins like that of `tidb.schema.tidb`, by reading TiKV, or continues from the store.
From then on, the feed delivers every change of a meta key, and the history ends at the feed's
frontier: no change of the schema at or below it is missing. Nothing is polled. The states that the
changes amount to are derived by the same code as from keys that are read, so both histories are
equal.

The last state of MODIFY COLUMN does not have the session that converts the values; the finished job
has it, which TiDB stores a little later. Until then, the history ends before that state.
"""

from collections.abc import Sequence
from typing import Final

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import ChangeFeedError
from pyspark_theflash.base.timestamp import shown
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.replication.apply.stream_state import SchemaSource
from pyspark_theflash.replication.cdc.change_feed import ChangeFeed
from pyspark_theflash.replication.cdc.meta_keys import ReceivedMetaKeys
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.meta_key import MetaReader, Outcome
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource

META_SPAN: Final = RawKeyRange.of_prefix(b"m")


class MetaSchema:
    """A `ChangeSchema` from a separate feed, which has no spans yet.

    `begin` is the source of a new history, and `reader` reads the meta keys of the cluster.
    """

    def __init__(
        self, begin: SchemaSource, reader: MetaReader, feed: ChangeFeed, clock: Clock
    ) -> None:
        self._begin, self._reader, self._feed, self._clock = begin, reader, feed, clock
        self._keys: ReceivedMetaKeys | None = None
        self._source: TidbSchemaSource | None = None
        self._restored: list[TimeStamp] = []

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        """Return the history up to the feed's frontier, whether or not that is `at_least`.

        Raises:
            ChangeFeedError: The cluster was restored as a whole.
            The errors of `begin`, and of `TidbSchemaSource.continue_from`.
        """
        history = self._begin.read(None, at_least) if after is None else after
        if self._keys is None or self._source is None:
            self._keys = ReceivedMetaKeys(self._reader, history)
            self._source = TidbSchemaSource(self._keys, self._clock)
            self._feed.subscribe(META_SPAN, history.end_ts)
        frontier = self._feed.resolved_ts
        if frontier <= history.end_ts:
            return history
        self._keys.add(self._feed.take(frontier).meta)
        limit = self._keys.up_to = self._limit(self._keys, history, frontier)
        if self._keys.has_changes:
            longer = self._source.continue_from(history, limit)
            diffs = self._keys.diffs(longer.end_ts)
            self._restored += [diff.commit_ts for diff in diffs if diff.restores]
        else:
            longer = history.up_to(limit)
        self._keys.advance(longer)
        return longer

    def receive(self, timeout_ms: int) -> None:
        """Receive pending messages; see `ChangeFeed.poll`."""
        self._feed.poll(timeout_ms)

    def take_restored(self) -> Sequence[TimeStamp]:
        """Remove and return when tables were restored, by the changes read since the last call."""
        restored, self._restored = self._restored, []
        return restored

    def close(self) -> None:
        """End the feed."""
        self._feed.close()

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> bool | None:
        return self._begin.has_written(key, start_ts)

    def had_row(self, key: RawKey, ts: TimeStamp) -> bool | None:
        return self._begin.had_row(key, ts)

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> Outcome | None:
        return self._begin.outcome(primary, start_ts)

    def _limit(
        self, keys: ReceivedMetaKeys, history: SchemaHistory, frontier: TimeStamp
    ) -> TimeStamp:
        """Return the frontier, or the timestamp before the cluster was restored as a whole."""
        rebuilds = [diff for diff in keys.diffs(frontier) if diff.rebuilds_all]
        if not rebuilds:
            return frontier
        first = min(rebuilds, key=lambda diff: diff.commit_ts)
        before = TimeStamp(first.commit_ts - 1)
        if before > history.end_ts:
            return before
        where = f"schema version {first.version}"
        reason = (
            f"FLASHBACK CLUSTER or a restore replaced the cluster's rows at "
            f"{shown(first.commit_ts)}, which the change feed does not deliver"
        )
        raise ChangeFeedError(where, reason)
