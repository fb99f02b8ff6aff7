"""SQL text of the engine *ch*. Values are numbers or hexadecimal; names come from `quoted`."""

from collections.abc import Sequence

from pyspark_theflash.base.types import MAX_TS, TimeStamp
from pyspark_theflash.storage.engine.api import Handle
from pyspark_theflash.storage.engine.ch.batch import LoadedBatch, StoredBatch
from pyspark_theflash.storage.engine.ch.column import StoredColumn, ch_type, quoted
from pyspark_theflash.storage.mvcc.version import (
    COMMIT_TS,
    HANDLE,
    OP,
    SUPERSEDED_TS,
    Op,
    absence_name,
    is_absence,
)

Read = tuple[StoredBatch, LoadedBatch]


def literal(handle: Handle) -> str:
    """Return a handle as an expression of SQL."""
    return f"unhex('{handle.hex()}')" if isinstance(handle, bytes) else f"({int(handle)})"


def within(start: Handle | None, end: Handle | None) -> str:
    """Return the condition of handles from `start` to before `end`."""
    terms = [] if start is None else [f"{HANDLE} >= {literal(start)}"]
    terms += [] if end is None else [f"{HANDLE} < {literal(end)}"]
    return " AND ".join(terms) or "1"


def visible(read: Read, newer: Sequence[Read], ts: TimeStamp, columns: Sequence[str]) -> str:
    """Return the SELECT of the rows of a batch that are visible at a timestamp."""
    batch, loaded = read
    terms = [f"{OP} = {int(Op.PUT)}"]
    if batch.max_ts > ts:
        terms.append(f"{COMMIT_TS} <= {ts}")
    terms.append(f"{SUPERSEDED_TS} > {ts}")
    hiding = [
        f"SELECT {HANDLE} FROM {other.sql} WHERE {COMMIT_TS} <= {ts}"  # noqa: S608
        f" AND {HANDLE} BETWEEN {literal(batch.low)} AND {literal(batch.high)}"
        for each, other in newer
        if each.min_ts <= ts and each.overlaps(batch.low, batch.high)
    ]
    if hiding:
        terms.append(f"{HANDLE} NOT IN ({' UNION ALL '.join(hiding)})")
    chosen = ", ".join(map(quoted, columns or [OP]))
    return f"SELECT {chosen} FROM {loaded.sql} WHERE {' AND '.join(terms)}"  # noqa: S608


def all_versions(
    reads: Sequence[Read], columns: Sequence[StoredColumn], condition: str = "1"
) -> str:
    """Return the SELECT of all versions of batches, with these columns and `_superseded_ts`."""
    selects = [
        f"SELECT {', '.join(_as_stored(loaded, column) for column in columns)}"  # noqa: S608
        f" FROM {loaded.sql} WHERE {condition}"
        for _, loaded in reads
    ]
    names = ", ".join(quoted(column.name) for column in columns)
    following = "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING"
    return (
        f"SELECT {names}, leadInFrame({COMMIT_TS}, 1, toUInt64({MAX_TS})) OVER (PARTITION BY"  # noqa: S608
        f" {HANDLE} ORDER BY {COMMIT_TS} {following}) AS {SUPERSEDED_TS}"
        f" FROM ({' UNION ALL '.join(selects)})"
    )


def _as_stored(loaded: LoadedBatch, column: StoredColumn) -> str:
    """Return a column of a batch with another type, or the value of rows without it."""
    name, tp = quoted(column.name), ch_type(column.type, has_null=column.has_null)
    if column.name in loaded.meta.names:
        return f"CAST({name}, '{tp}') AS {name}"
    if not is_absence(column.name):
        return f"CAST(NULL, '{tp}') AS {name}"
    is_absent = absence_name(column.name) not in loaded.meta.names
    return f"CAST({int(is_absent)}, '{tp}') AS {name}"


def needed(safe_point: TimeStamp) -> str:
    """Return the condition of versions that a snapshot at or above the safe point sees."""
    is_seen = f"{SUPERSEDED_TS} > {safe_point} AND {OP} = {int(Op.PUT)}"
    return f"({COMMIT_TS} > {safe_point} OR ({is_seen}))"
