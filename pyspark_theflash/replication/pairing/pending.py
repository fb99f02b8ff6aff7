"""Pending transactions, and their encoding in the manifest."""

import struct
from dataclasses import dataclass, field
from typing import Final

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pairing.spill import Payload, payload_bytes
from pyspark_theflash.replication.source.event import NO_KEY, DdlInfo
from pyspark_theflash.tidb.codec.key import RawKey

PENDING_KIND: Final = "pending"
_PREWRITTEN: Final = 1
_DDL: Final = 2
_PRIMARY: Final = 4
_HEAD: Final = struct.Struct("<BQQQ")
_DDL_HEAD: Final = struct.Struct("<qiI")
_PRIMARY_HEAD: Final = struct.Struct("<I")
_LAYER: Final = "pending transaction"


@dataclass(frozen=True, slots=True)
class PendingTransaction:
    """Transaction that is not applied yet.

    `commit_ts` is 0 without a commit, `payload` is None without a prewrite; at least one of the two
    has arrived. While the other is missing, `resolved_ts` is at most `hold_ts`. `primary` is the
    transaction's primary key, b"" if it is not known.
    """

    start_ts: TimeStamp
    commit_ts: TimeStamp
    hold_ts: TimeStamp
    payload: Payload | None = field(repr=False)
    ddl: DdlInfo | None
    primary: RawKey = field(default=NO_KEY, repr=False)

    def to_bytes(self) -> bytes:
        """Encode the transaction; numbers are little-endian.

        u8 flags | u64 start_ts | u64 commit_ts | u64 hold_ts
        i64 job_id | i32 schema_state | u32 length | query     if it is a DDL job
        u32 length | primary key                               if the key is known
        payload
        """
        flags = _PREWRITTEN * (self.payload is not None) | _DDL * (self.ddl is not None)
        flags |= _PRIMARY * bool(self.primary)
        head = _HEAD.pack(flags, self.start_ts, self.commit_ts, self.hold_ts)
        key = _PRIMARY_HEAD.pack(len(self.primary)) + self.primary if self.primary else b""
        return head + _ddl_bytes(self.ddl) + key + payload_bytes(self.payload or b"")

    @classmethod
    def from_bytes(cls, data: bytes) -> "PendingTransaction":
        """Decode a transaction. Raises `CodecError`."""
        try:
            flags, start_ts, commit_ts, hold_ts = _HEAD.unpack_from(data)
            at = _HEAD.size
            ddl, primary = None, NO_KEY
            if flags & _DDL:
                job_id, schema_state, size = _DDL_HEAD.unpack_from(data, at)
                at += _DDL_HEAD.size + size
                ddl = DdlInfo(data[at - size : at].decode(), job_id, schema_state)
            if flags & _PRIMARY:
                (size,) = _PRIMARY_HEAD.unpack_from(data, at)
                at += _PRIMARY_HEAD.size + size
                primary = RawKey(data[at - size : at])
        except (struct.error, UnicodeDecodeError) as error:
            raise CodecError(_LAYER, str(error)) from error
        if flags > _PREWRITTEN | _DDL | _PRIMARY or at > len(data):
            raise CodecError(_LAYER, "wrong flags or length")
        payload = data[at:] if flags & _PREWRITTEN else None
        times = TimeStamp(start_ts), TimeStamp(commit_ts), TimeStamp(hold_ts)
        return cls(*times, payload, ddl, primary)


def _ddl_bytes(ddl: DdlInfo | None) -> bytes:
    if ddl is None:
        return b""
    query = ddl.query.encode()
    return _DDL_HEAD.pack(ddl.job_id, ddl.schema_state, len(query)) + query
