"""Write records: what has become of a transaction on a key, at its commit_ts.

    u8 kind | uvarint start_ts | tagged fields

    kind  P put   D delete   L lock only   R rolled back (commit_ts is the start_ts here; with the
          short value `p` it is not to be forgotten)
    tags  v u8 size, short value    R the key's transaction of this very timestamp was rolled back
          F u64 gc_fence            l u64, uvarint: last change    S uvarint source

Fields come in a fixed order, and an unknown tag ends the record. As in TiKV's `txn_types::Write`.

**The fence.** Where a rollback of one transaction falls on the commit of another, TiKV writes the
commit again, with an `R`. That would bring back a version which garbage collection has dropped on
one replica and not yet on another, so the rewritten record names the next version: `gc_fence`, or 0
where there is none. Whoever finds the record as the newest at a snapshot, and the fence at or below
that snapshot, knows that the version at the fence was collected, and this one with it.

    k@100 put, k@120 delete   ->  rollback of a transaction 100  ->  k@100 put R F=120
    collected up to 130       ->  the rewrite arrives late: k@100 put R F=120; at 140 k is gone
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.record import RecordReader

_LAYER: Final = "write record"
_NO_TS: Final = TimeStamp(0)
_SHORT_VALUE: Final = ord("v")
_OVERLAPPED_ROLLBACK: Final = ord("R")
_GC_FENCE: Final = ord("F")
_LAST_CHANGE: Final = ord("l")
_TXN_SOURCE: Final = ord("S")


class WriteKind(Enum):
    """The kind of a write; the value is the byte on the wire."""

    PUT = ord("P")
    DELETE = ord("D")
    LOCK = ord("L")
    ROLLBACK = ord("R")


@dataclass(frozen=True, slots=True)
class Write:
    """A write record. `gc_fence` is None unless the record was written again."""

    kind: WriteKind
    start_ts: TimeStamp
    short_value: bytes | None = field(default=None, repr=False)
    has_overlapped_rollback: bool = False
    gc_fence: TimeStamp | None = None
    last_change_ts: TimeStamp = _NO_TS
    last_change_versions: int = 0
    txn_source: int = 0

    @property
    def has_data(self) -> bool:
        """Whether it makes a version of the row."""
        return self.kind in (WriteKind.PUT, WriteKind.DELETE)


def decode_write(data: bytes) -> Write:
    """Decode a value of the write column family.

    Raises:
        CodecError: the bytes are no write record.
    """
    reader = RecordReader(_LAYER, data)
    code = reader.u8()
    try:
        kind = WriteKind(code)
    except ValueError as error:
        raise CodecError(_LAYER, f"no write is of kind {code:#04x}") from error
    start_ts = TimeStamp(reader.uvarint())
    fields: dict[str, object] = {}
    while not reader.is_at_end and (found := _tagged(reader)) is not None:
        fields.update(found)
    return Write(kind, start_ts, **fields)  # type: ignore[arg-type]


def _tagged(reader: RecordReader) -> dict[str, object] | None:
    """The field that comes next, by its name in `Write`; None for an unknown one."""
    tag = reader.u8()
    if tag == _SHORT_VALUE:
        return {"short_value": reader.take(reader.u8())}
    if tag == _OVERLAPPED_ROLLBACK:
        return {"has_overlapped_rollback": True}
    if tag == _GC_FENCE:
        return {"gc_fence": reader.u64()}
    if tag == _LAST_CHANGE:
        return {"last_change_ts": reader.u64(), "last_change_versions": reader.uvarint()}
    if tag == _TXN_SOURCE:
        return {"txn_source": reader.uvarint()}
    return None
