"""Whether the records of a store agree on which feed writes which table."""

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
    """Every contradiction; `view` has the records of all kinds. Raises `CodecError`."""
    main = main_feed(view)
    if main is Feed.BOTH:
        yield FeedConflictError("the store", "was written by a stream and through the API")
        return
    traces = [kind for kind in STREAM_KINDS if view.of_kind(kind)]
    if main is Feed.API and traces:
        yield FeedConflictError("the store", f"is of the API, and has records {traces[0]}")
    if main is None and any(Progress.of(view, feed) for feed in (MAIN, SIDE)):
        yield FeedConflictError("the store", "has progress, and no record of the feed it is of")
    side = feed_history(view, SIDE)
    if side is not None and main is not Feed.STREAM:
        yield FeedConflictError("the store", "has tables beside a stream, and no stream")
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
    known = {physical_id for event in events for physical_id in event.physical_ids}
    for key in view.of_kind(WRITTEN_KIND):
        if int(key) not in known:
            reason = "was written through the API, and is none of the API's tables"
            yield FeedConflictError(f"physical table {int(key)}", reason)
