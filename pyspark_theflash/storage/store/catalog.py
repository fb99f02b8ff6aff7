"""Records of the schema history in the manifest.

An event's record has a head and TiDB's TableInfo, compressed. A history may have tens of thousands
of events, and a scan decodes the TableInfo of only one.

    {"ts": 7, "db": "shop", "table_id": 108, "name": "orders", "shape": [16, 1, true]}    one line
    zlib of the TableInfo's JSON                                          after the line feed

`name` is null if the table was dropped. `shape` has its number of columns, its number of
partitions, and whether it is listed; lists of tables need no TableInfo.

Records of format 1, one JSON object without a line feed, are still decoded.
"""

import json
import zlib
from typing import Final

from pyspark_theflash.base.errors import CodecError, TableNotFoundError
from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp
from pyspark_theflash.storage.store.feed import MAIN, SCHEMA_KINDS, SIDE, FeedRecords
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, store_progress
from pyspark_theflash.storage.store.raft_fed import RAFT_FED_KIND, RaftFedMarker
from pyspark_theflash.tidb.codec.document import (
    SHAPE_ERRORS,
    boolean,
    brief,
    int64,
    load,
    shaped,
    text,
    uint64,
)
from pyspark_theflash.tidb.schema.history import (
    SchemaHistory,
    SchemaVersionAt,
    TableEvent,
    UnreadTable,
)
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info

SCHEMA_KIND: Final = MAIN.schema_kind
NOW_KINDS: Final = (*SCHEMA_KINDS, PROGRESS_KIND, RAFT_FED_KIND)
MAX_TABLE_BYTES: Final = 1 << 26
"""TiDB limits entries to a few megabytes."""
_SPAN_KEY: Final = "span"
_END_OF_HEAD: Final = b"\n"


def schema_records(
    history: SchemaHistory, stored: SchemaHistory | None = None, feed: FeedRecords = MAIN
) -> list[Record]:
    """Encode a feed's history: one record for each event, and one for the time that it covers.

    Returns only the events that follow those of `stored`, which `history` continues.
    """
    first = 0 if stored is None else len(stored.events)
    span = {
        "start_ts": history.start_ts,
        "end_ts": history.end_ts,
        "source": history.source,
        "versions": [[v.ts, v.version] for v in history.versions],
    }
    events = [
        Record(feed.schema_kind, f"event-{number:08d}", pack_event(event))
        for number, event in enumerate(history.events[first:], first)
    ]
    return [*events, Record(feed.schema_kind, _SPAN_KEY, json.dumps(span).encode())]


def schema_history(view: View) -> SchemaHistory | None:
    """Return the history of all feeds; None before the first publication. Raises `CodecError`.

    `view` has `SCHEMA_KINDS`.
    """
    main, side = (feed_history(view, feed) for feed in (MAIN, SIDE))
    if main is None or side is None:
        return main or side
    return SchemaHistory(
        min(main.start_ts, side.start_ts),
        max(main.end_ts, side.end_ts),
        [*main.events, *side.events],
        main.versions,
    )


def feed_history(view: View, feed: FeedRecords = MAIN) -> SchemaHistory | None:
    """Return the history of a feed; None before its first publication. Raises `CodecError`."""
    records = dict(view.of_kind(feed.schema_kind))
    if not records:
        return None
    with shaped(f"{SCHEMA_KIND} record"):
        span = load(records.pop(_SPAN_KEY))
        return SchemaHistory(
            TimeStamp(uint64(span["start_ts"])),
            TimeStamp(uint64(span["end_ts"])),
            [unpack_event(body) for body in records.values()],
            [
                SchemaVersionAt(TimeStamp(uint64(ts)), SchemaVersion(int64(v)))
                for ts, v in span["versions"]
            ],
            None if span.get("source") is None else text(span["source"]),
        )


def history_now(view: View) -> tuple[SchemaHistory, TimeStamp] | None:
    """Return the history of a store and its newest readable timestamp; None if it is empty.

    Later events of the history belong to commits that are not applied yet. `view` has `NOW_KINDS`.
    Raises `CodecError`.
    """
    history, progress = schema_history(view), store_progress(view)
    if history is None or progress is None:
        return None
    # Commits of TiKV are readable at once; the history follows them.
    is_learned = RaftFedMarker.of(view) is not None
    return history, history.end_ts if is_learned else min(progress.resolved_ts, history.end_ts)


def table_now(view: View, full_name: str) -> TableInfo:
    """Return the table `db.table` at the newest readable timestamp. Raises `TableNotFoundError`.

    `view` has `NOW_KINDS`.
    """
    if (current := history_now(view)) is None:
        raise TableNotFoundError(full_name, 0)
    history, ts = current
    return history.table_by_name(full_name, ts)


def pack_event(event: TableEvent) -> bytes:
    """Encode an event as the body of its record."""
    head = {"ts": event.ts, "db": event.db, "table_id": event.table_id, "name": event.name}
    if (shape := event.shape) is not None:
        head["shape"] = tuple(shape)
    info = event.json_text
    definition = b"" if info is None else zlib.compress(info.encode(), 1)
    return json.dumps(head, separators=(",", ":")).encode() + _END_OF_HEAD + definition


def unpack_event(body: bytes) -> TableEvent:
    """Inverse of `pack_event`. The TableInfo is decoded on first access.

    Raises:
        CodecError: The record is malformed.
        SchemaFileError: The TableInfo of a format 1 record is malformed.
    """
    head, line_feed, definition = body.partition(_END_OF_HEAD)
    try:
        event = load(head)
        ts, db = TimeStamp(uint64(event["ts"])), text(event["db"])
        table_id = TableID(int64(event["table_id"]))
        if not line_feed:
            info = parse_table_info(db, event["table"]) if event["table"] else None
            return TableEvent(ts, db, table_id, info)
        if event["name"] is None:
            return TableEvent(ts, db, table_id, None)
        shape = () if "shape" not in event else _shape(*event["shape"])
        table = UnreadTable(db, text(event["name"]), definition, _inflate, *shape)
        return TableEvent(ts, db, table_id, table)
    except SHAPE_ERRORS as error:
        raise CodecError(f"{SCHEMA_KIND} record", brief(error)) from error


def _shape(columns: object, partitions: object, is_listed: object) -> tuple[int, int, bool]:
    return uint64(columns), uint64(partitions), boolean(is_listed)


def _inflate(definition: bytes) -> str:
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(definition, MAX_TABLE_BYTES)
        if not stream.eof:
            raise CodecError("table definition", "is truncated or too long", len(raw))
        return raw.decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise CodecError("table definition", brief(error)) from error
