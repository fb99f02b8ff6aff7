"""The feed of a table: a stream of changes, or callers of the API; never both.

    main   the feed that the store began with; its tables have any id
    side   the API, beside a stream; its tables have ids from 2**48 on, which TiDB never gives out

The feed of a table is known by its id, from when it is created, and cannot change. Each feed has a
schema history, progress and a ledger of its own, so `resolved_ts` of one says nothing of the other.
The record `feed/main` names the main feed. Each writer claims it before it publishes anything, and
each commit of a writer looks at it again, within its transaction (`feed_guard`).
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pyspark_theflash.base.errors import CodecError, FeedConflictError
from pyspark_theflash.base.types import TableID
from pyspark_theflash.storage.store.manifest import Guard, Manifest, Record, View
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND
from pyspark_theflash.storage.store.scope import SCOPE_KIND

FEED_KIND: Final = "feed"
SIDE_IDS_FROM: Final = 1 << 48
WRITTEN_KIND: Final = "written"
_MAIN_KEY: Final = "main"
STREAM_KINDS: Final = (SCOPE_KIND, "base", "pending", RAFT_FED_KIND)
"""Kinds of records that only a stream writes."""


class Feed(Enum):
    """The main feed of a store, as its record says.

    `BOTH` is of a store that a stream and the API wrote under an earlier format, which did not tell
    them apart: its `resolved_ts` may be that of either, so nothing can be read from it.
    """

    STREAM = "stream"
    API = "api"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class FeedRecords:
    """The kinds and keys of one feed's records in the manifest."""

    progress_key: str
    schema_kind: str
    ledger_kind: str


MAIN: Final = FeedRecords("writer", "schema", "ledger")
SIDE: Final = FeedRecords("side", "side-schema", "side-ledger")
SCHEMA_KINDS: Final = (MAIN.schema_kind, SIDE.schema_kind)


def main_feed(view: View) -> Feed | None:
    """The main feed; None before the first write. Raises `CodecError`."""
    return _parsed(view.of_kind(FEED_KIND).get(_MAIN_KEY))


def feed_record(feed: Feed) -> Record:
    """Names the main feed."""
    return Record(FEED_KIND, _MAIN_KEY, feed.value.encode())


def records_of(view: View, table_id: TableID) -> FeedRecords:
    """Return the feed of a table; `view` has `FEED_KIND`. Raises `CodecError`."""
    is_side = table_id >= SIDE_IDS_FROM and main_feed(view) is Feed.STREAM
    return SIDE if is_side else MAIN


def claim(view: View, feed: Feed) -> list[Record]:
    """Return the records to publish before or with a writer's first rows; `view` has `FEED_KIND`.

    Raises `FeedConflictError`: the main feed is another one.
    """
    found = main_feed(view)
    check_main_feed(found, feed)
    return [] if found is feed else [feed_record(feed)]


def check_main_feed(found: Feed | None, wanted: Feed) -> None:
    """Raise `FeedConflictError` where the main feed is another than `wanted`."""
    if found not in (None, wanted):
        raise FeedConflictError("the store", _WRITTEN_BY[found])


def check_not_both(view: View) -> None:
    """Raise `FeedConflictError` where nothing can be read; `view` has `FEED_KIND`."""
    if main_feed(view) is Feed.BOTH:
        raise FeedConflictError("the store", _WRITTEN_BY[Feed.BOTH])


def feed_guard(feed: Feed) -> Guard:
    """Raises `FeedConflictError`, in a commit's transaction, unless that is the main feed."""

    def check(db: sqlite3.Connection) -> None:
        statement = "SELECT body FROM record WHERE kind = ? AND key = ?"
        row = db.execute(statement, (FEED_KIND, _MAIN_KEY)).fetchone()
        check_main_feed(_parsed(None if row is None else row[0]), feed)

    return check


def all_guards(*guards: Callable[[sqlite3.Connection], None]) -> Guard:
    """One guard that asks each of these."""

    def check(db: sqlite3.Connection) -> None:
        for guard in guards:
            guard(db)

    return check


def inferred_feed(manifest: Manifest) -> Record | None:
    """The record that a store of format 3 or earlier lacks; None where there is nothing to say.

    A store without any trace of a stream has been written through the API, if at all.
    """
    ledger = MAIN.ledger_kind
    view = manifest.read([FEED_KIND, WRITTEN_KIND, "progress", ledger, *STREAM_KINDS])
    if main_feed(view) is not None or not view.of_kind("progress"):
        return None
    has_stream = any(view.of_kind(kind) for kind in STREAM_KINDS)
    if view.of_kind(WRITTEN_KIND):
        return feed_record(Feed.BOTH if has_stream else Feed.API)
    return feed_record(Feed.STREAM if has_stream or view.of_kind(ledger) else Feed.API)


def _parsed(body: bytes | None) -> Feed | None:
    if body is None:
        return None
    try:
        return Feed(body.decode())
    except ValueError as error:
        raise CodecError(f"{FEED_KIND} record", "names no feed") from error


_WRITTEN_BY: Final = {
    Feed.STREAM: "is written by a stream (theflash writer or theflash learn)",
    Feed.API: "is written through the API, and no stream goes on from there: theflash init another",
    Feed.BOTH: "was written by a stream and through the API with an earlier version, and rows may "
    "be missing from it: theflash init another, and load it anew",
}
