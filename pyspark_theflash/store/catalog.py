"""The schema history inside the manifest."""

import json
from typing import Final

from pyspark_theflash.schema.history import SchemaHistory, SchemaVersionAt, TableEvent
from pyspark_theflash.store.manifest import Record, View
from pyspark_theflash.types import SchemaVersion, TimeStamp

SCHEMA_KIND: Final = "schema"
_SPAN_KEY: Final = "span"


def schema_records(history: SchemaHistory) -> list[Record]:
    """The history as records: one an event, and one for the time it covers."""
    span = {
        "start_ts": history.start_ts,
        "end_ts": history.end_ts,
        "versions": [[v.ts, v.version] for v in history.versions],
    }
    events = [
        Record(SCHEMA_KIND, f"event-{number:08d}", event.to_json())
        for number, event in enumerate(history.events)
    ]
    return [*events, Record(SCHEMA_KIND, _SPAN_KEY, json.dumps(span).encode())]


def schema_history(view: View) -> SchemaHistory | None:
    """The history a store has, or None before its first publication."""
    records = dict(view.of_kind(SCHEMA_KIND))
    if not records:
        return None
    span = json.loads(records.pop(_SPAN_KEY))
    return SchemaHistory(
        TimeStamp(span["start_ts"]),
        TimeStamp(span["end_ts"]),
        [TableEvent.from_json(body) for body in records.values()],
        [SchemaVersionAt(TimeStamp(ts), SchemaVersion(v)) for ts, v in span["versions"]],
    )
