"""TiKV's lock and write records, as its transaction layer writes them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass


def uvarint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def compact(value: bytes) -> bytes:
    return uvarint(2 * len(value)) + value


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


@dataclass
class LockRecord:
    """The fields of a lock record; None and 0 are omitted, as by TiKV."""

    kind: str
    primary: bytes
    start_ts: int
    ttl: int = 0
    short_value: bytes | None = None
    for_update_ts: int = 0
    txn_size: int = 0
    min_commit_ts: int = 0
    secondaries: Sequence[bytes] | None = None
    rollback_ts: Sequence[int] = ()
    last_change: tuple[int, int] | None = None
    source: int = 0
    with_conflict: bool = False
    generation: int = 0
    shared_by: "Sequence[LockRecord] | None" = None

    def encode(self) -> bytes:
        out = self.kind.encode() + compact(self.primary) + uvarint(self.start_ts)
        out += uvarint(self.ttl)
        if self.short_value is not None:
            out += b"v" + bytes([len(self.short_value)]) + self.short_value
        for tag, number in (
            (b"f", self.for_update_ts),
            (b"t", self.txn_size),
            (b"c", self.min_commit_ts),
        ):
            out += tag + u64(number) if number else b""
        if self.secondaries is not None:
            out += b"a" + uvarint(len(self.secondaries)) + b"".join(map(compact, self.secondaries))
        if self.rollback_ts:
            out += b"r" + uvarint(len(self.rollback_ts)) + b"".join(map(u64, self.rollback_ts))
        if self.last_change is not None:
            out += b"l" + u64(self.last_change[0]) + uvarint(self.last_change[1])
        out += b"s" + uvarint(self.source) if self.source else b""
        out += b"F" if self.with_conflict else b""
        out += b"g" + u64(self.generation) if self.generation else b""
        if self.shared_by is not None:
            out += b"h" + uvarint(len(self.shared_by))
            out += b"".join(compact(each.encode()) for each in self.shared_by)
        return out


def write_record(
    kind: str,
    start_ts: int,
    *,
    short_value: bytes | None = None,
    overlapped_rollback: bool = False,
    gc_fence: int | None = None,
    last_change: tuple[int, int] | None = None,
    source: int = 0,
) -> bytes:
    out = kind.encode() + uvarint(start_ts)
    if short_value is not None:
        out += b"v" + bytes([len(short_value)]) + short_value
    out += b"R" if overlapped_rollback else b""
    out += b"F" + u64(gc_fence) if gc_fence is not None else b""
    if last_change is not None:
        out += b"l" + u64(last_change[0]) + uvarint(last_change[1])
    return out + (b"S" + uvarint(source) if source else b"")
