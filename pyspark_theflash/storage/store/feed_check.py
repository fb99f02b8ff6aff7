"""Check that the records of a store agree on the feed of each table."""

from collections.abc import Iterator

from pyspark_theflash.base.errors import FeedConflictError
from pyspark_theflash.storage.store.catalog import feed_history
from pyspark_theflash.storage.store.feed import (
    MAIN,
    SIDE,
    SIDE_IDS_FROM,
    STREAM_KINDS,
    WRITTEN_KIND,
    Feed,
    main_feed,
)
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tidb.schema.history import SchemaHistory


def check_feeds(view: View) -> Iterator[FeedConflictError]:
    """Yield every contradiction; `view` has the records of all kinds. Raises `CodecError`."""
    main = main_feed(view)
    if main is Feed.BOTH:
        yield FeedConflictError("the store", "was written by a stream and through the API")
        return
    stream_kinds = [kind for kind in STREAM_KINDS if view.of_kind(kind)]
    if main is Feed.API and stream_kinds:
        reason = f"is written through the API, but has {stream_kinds[0]} records of a stream"
        yield FeedConflictError("the store", reason)
    if main is None and any(Progress.of(view, feed) for feed in (MAIN, SIDE)):
        yield FeedConflictError("the store", "has progress, but no record of the main feed")
    side = feed_history(view, SIDE)
    if side is not None and main is not Feed.STREAM:
        yield FeedConflictError("the store", "has API tables beside a stream, but no stream")
    yield from _check_tables(view, main, side)
    for feed in (MAIN, SIDE):
        progress = Progress.of(view, feed)
        if progress is not None and progress.oldest_ts > progress.resolved_ts:
            reason = f"has oldest_ts {progress.oldest_ts} above resolved_ts {progress.resolved_ts}"
            yield FeedConflictError(f"progress of {feed.progress_key}", reason)


def _check_tables(
    view: View, main: Feed | None, side: SchemaHistory | None
) -> Iterator[FeedConflictError]:
    for event in () if side is None else side.events:
        if event.table_id < SIDE_IDS_FROM:
            yield FeedConflictError(f"table {event.table_id}", "has an id of the stream's tables")
    api = feed_history(view, MAIN) if main is Feed.API else side
    events = () if api is None else api.events
    physical_ids = {physical_id for event in events for physical_id in event.physical_ids}
    for key in view.of_kind(WRITTEN_KIND):
        if int(key) not in physical_ids:
            reason = "was written through the API, but does not belong to an API table"
            yield FeedConflictError(f"physical table {int(key)}", reason)
