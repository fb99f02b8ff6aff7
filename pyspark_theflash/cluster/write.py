"""Write records: values of TiKV's write column family, a transaction's outcome on a key.

    u8 kind | uvarint start_ts | tagged fields

    kind  P put   D delete   L lock only   R rollback (commit_ts equals start_ts; short value `p`
          marks a protected rollback)
    tags  v u8 size, short value    R a transaction with start_ts = this commit_ts was rolled back
          F u64 gc_fence            l u64, uvarint: last change    S uvarint source

Fields have a fixed order, and an unknown tag ends the record. See TiKV's `txn_types::Write`.

**gc_fence.** If the rollback of one transaction has the same key and timestamp as the commit of
another, TiKV writes the commit again with an `R`. This could restore a version that garbage
collection has already removed on one replica and not yet on another. Therefore the rewritten record
contains the commit_ts of the next version as `gc_fence`, or 0 if there is none. If this record is
the newest at a snapshot and its fence is at or below the snapshot, the version at the fence has
been collected, and this version is not valid either.

    k@100 put, k@120 delete   ->  rollback of transaction 100     ->  k@100 put R F=120
    collected up to 130       ->  the rewrite is applied later    ->  k@100 put R F=120: at 140, k
                                                                      does not exist
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.record import SHARED_FIELDS, FieldReaders, RecordReader

_LAYER: Final = "write record"
_NO_TS: Final = TimeStamp(0)
_FIELDS: Final[FieldReaders] = {
    **SHARED_FIELDS,
    "R": lambda _: {"has_overlapped_rollback": True},
    "F": lambda reader: {"gc_fence": reader.u64()},
    "S": lambda reader: {"txn_source": reader.uvarint()},
}


class WriteKind(Enum):
    """The kind of a write; the value is its byte in the record."""

    PUT = ord("P")
    DELETE = ord("D")
    LOCK = ord("L")
    ROLLBACK = ord("R")


@dataclass(frozen=True, slots=True)
class Write:
    """A write record. `gc_fence` is None unless the record was rewritten by a rollback."""

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
        """Whether the record is a version of the row."""
        return self.kind in (WriteKind.PUT, WriteKind.DELETE)


def decode_write(data: bytes) -> Write:
    """Decode a value of the write column family.

    Raises:
        CodecError: The bytes are not a write record.
    """
    reader = RecordReader(_LAYER, data)
    code = reader.u8()
    try:
        kind = WriteKind(code)
    except ValueError as error:
        raise CodecError(_LAYER, f"unknown write kind {code:#04x}") from error
    start_ts = TimeStamp(reader.uvarint())
    return Write(kind, start_ts, **reader.tagged_fields(_FIELDS))
