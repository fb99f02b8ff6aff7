"""The feed of a table: a stream of changes, or the API, but never both.

    main   the store's first feed; its tables have any id
    side   the API, in a store with a stream; its tables have ids from 2**48 on, unused by TiDB

The feed of a table follows from its id, so it cannot change. Each feed has its own schema history,
progress and ledger, so their `resolved_ts` are independent. The record `feed/main` names the main
feed. A writer claims it before its first publication, and each of its commits checks it in the same
transaction (`feed_guard`).
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
"""Record kinds that only a stream writes."""


class Feed(Enum):
    """The main feed of a store.

    `BOTH` marks a store that both a stream and the API wrote under an earlier format, which did not
    separate them. Its `resolved_ts` may be of either, so the store cannot be read.
    """

    STREAM = "stream"
    API = "api"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class FeedRecords:
    """The kinds and keys of a feed's manifest records."""

    progress_key: str
    schema_kind: str
    ledger_kind: str


MAIN: Final = FeedRecords("writer", "schema", "ledger")
SIDE: Final = FeedRecords("side", "side-schema", "side-ledger")
SCHEMA_KINDS: Final = (MAIN.schema_kind, SIDE.schema_kind)


def main_feed(view: View) -> Feed | None:
    """Return the main feed; None before the first write. Raises `CodecError`."""
    return _parsed(view.of_kind(FEED_KIND).get(_MAIN_KEY))


def feed_record(feed: Feed) -> Record:
    """Return the record of the main feed."""
    return Record(FEED_KIND, _MAIN_KEY, feed.value.encode())


def records_of(view: View, table_id: TableID) -> FeedRecords:
    """Return the record kinds of a table's feed; `view` has `FEED_KIND`. Raises `CodecError`."""
    is_side = table_id >= SIDE_IDS_FROM and main_feed(view) is Feed.STREAM
    return SIDE if is_side else MAIN


def claim(view: View, feed: Feed) -> list[Record]:
    """Return the records to publish before or with a writer's first rows; `view` has `FEED_KIND`.

    Raises `FeedConflictError` if the store has another main feed.
    """
    current = main_feed(view)
    check_main_feed(current, feed)
    return [] if current is feed else [feed_record(feed)]


def check_main_feed(current: Feed | None, wanted: Feed) -> None:
    """Raise `FeedConflictError` if there is a main feed other than `wanted`."""
    if current not in (None, wanted):
        raise FeedConflictError("the store", _WRITTEN_BY[current])


def check_not_both(view: View) -> None:
    """Raise `FeedConflictError` if the main feed is `BOTH`; `view` has `FEED_KIND`."""
    if main_feed(view) is Feed.BOTH:
        raise FeedConflictError("the store", _WRITTEN_BY[Feed.BOTH])


def feed_guard(feed: Feed) -> Guard:
    """Return a guard that raises `FeedConflictError` if the store has another main feed."""

    def check(db: sqlite3.Connection) -> None:
        statement = "SELECT body FROM record WHERE kind = ? AND key = ?"
        row = db.execute(statement, (FEED_KIND, _MAIN_KEY)).fetchone()
        check_main_feed(_parsed(None if row is None else row[0]), feed)

    return check


def all_guards(*guards: Callable[[sqlite3.Connection], None]) -> Guard:
    """Return a guard that calls each of these."""

    def check(db: sqlite3.Connection) -> None:
        for guard in guards:
            guard(db)

    return check


def inferred_feed(manifest: Manifest) -> Record | None:
    """Return the main feed's record for a store of format 3 or earlier; None if not needed.

    A store without records of a stream can only have been written through the API.
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
        raise CodecError(f"{FEED_KIND} record", "does not name a feed") from error


_WRITTEN_BY: Final = {
    Feed.STREAM: "is written by a stream (theflash writer or theflash learn)",
    Feed.API: "is written through the API, so a stream cannot write it: create another one with "
    "theflash init",
    Feed.BOTH: "was written by a stream and through the API with an earlier version, and may miss "
    "rows: create another one with theflash init and load it again",
}
