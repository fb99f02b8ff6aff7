"""Position of a store in TiKV's change feed: the cluster that feeds it, `tikv:CLUSTER_ID`.

The feed continues at the store's resolved_ts, so the position needs no more. It shows that the
store has no ledger, without which a binlog cannot be continued, and the reverse.
"""

from typing import Final

from pyspark_theflash.base.errors import ClusterMismatchError, FeedConflictError
from pyspark_theflash.storage.store.feed import MAIN
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress

CONTINUED_KINDS: Final = (PROGRESS_KIND, MAIN.ledger_kind)
SINK_POSITION: Final = "ticdc"
"""Position of a store that is written from TiCDC's storage sink (`replication.ticdc`)."""
COPY_POSITION: Final = "copy"
"""Position of a copy at one timestamp (`replication.copy`), which no source continues."""
_PREFIX: Final = "tikv:"


def feed_position(cluster_id: int) -> str:
    """Return the position of a store that a cluster feeds."""
    return f"{_PREFIX}{cluster_id}"


def _check_no_copy(progress: Progress | None) -> None:
    if progress is not None and progress.position == COPY_POSITION:
        reason = (
            "is a copy at one timestamp, which no source continues: use theflash copy --history"
        )
        raise FeedConflictError("the store", reason)


def check_has_binlog(progress: Progress | None) -> None:
    """Raise `FeedConflictError` if a store is written from another source than a binlog."""
    _check_no_copy(progress)
    position = "" if progress is None else progress.position or ""
    if position.startswith(_PREFIX):
        reason = "is written from TiKV's change feed: continue it with --source tikv:HOST:PORT"
        raise FeedConflictError("the store", reason)
    if position == SINK_POSITION:
        reason = "is written from TiCDC's storage sink: continue it with --source cdc:URL"
        raise FeedConflictError("the store", reason)


def check_has_sink(view: View) -> None:
    """Raise `FeedConflictError` if a store is written from another source than a storage sink."""
    progress = Progress.of(view)
    _check_no_copy(progress)
    position = None if progress is None else progress.position
    if view.of_kind(MAIN.ledger_kind) or position not in (None, SINK_POSITION):
        reason = (
            "is written from a source of another kind, which TiCDC's output cannot continue: "
            "create another store with theflash init"
        )
        raise FeedConflictError("the store", reason)


def check_has_change_feed(view: View, cluster_id: int) -> None:
    """Check that a change feed may continue a store; `view` has `CONTINUED_KINDS`.

    Raises:
        FeedConflictError: The store is written from a binlog.
        ClusterMismatchError: Another cluster feeds the store.
    """
    progress = Progress.of(view)
    _check_no_copy(progress)
    position = None if progress is None else progress.position
    if view.of_kind(MAIN.ledger_kind) or not (position or _PREFIX).startswith(_PREFIX):
        reason = (
            "is written from a binlog, which a change feed cannot continue: create another store "
            "with theflash init"
        )
        raise FeedConflictError("the store", reason)
    if position is not None and position != feed_position(cluster_id):
        raise ClusterMismatchError("--source", cluster_id, int(position.removeprefix(_PREFIX)))
