"""Identifiers and timestamps shared by all packages.

A TiDB timestamp (TSO) is a 64-bit number: `physical milliseconds << 18 | logical`. It is a plain
`int` in Python and `uint64` in Arrow; only this module splits it into its two parts.
"""

from dataclasses import dataclass
from typing import Final, NewType

TimeStamp = NewType("TimeStamp", int)
"""A TSO: `(physical_ms << 18) | logical`, 0 <= ts < 2**64."""

SchemaVersion = NewType("SchemaVersion", int)
TableID = NewType("TableID", int)
"""Id of a logical table in TiDB's TableInfo."""
PhysicalTableID = NewType("PhysicalTableID", int)
"""Id under which rows are stored: a table without partitions, or one TiDB partition."""
ColumnID = NewType("ColumnID", int)
"""Id of a column: kept by a rename; dropping a column and adding one by its name makes a new id."""
RegionID = NewType("RegionID", int)
Generation = NewType("Generation", int)
"""Number of publications of a store; increases by one with each."""
FencingToken = NewType("FencingToken", int)
"""Increases with every grant of a latch, so that a previous holder can be rejected."""


@dataclass(frozen=True, slots=True)
class RegionEpoch:
    """Version of a TiKV region; another epoch may have other keys or peers."""

    conf_ver: int
    """Increases when a peer is added or removed."""
    version: int
    """Increases with a split or a merge."""


LOGICAL_BITS: Final = 18
MAX_TS: Final = TimeStamp(2**64 - 1)
"""Above every commit_ts: the `superseded_ts` of a row version that is not superseded."""


def from_physical_ms(physical_ms: int) -> TimeStamp:
    """Return the first timestamp of a millisecond: a read there sees earlier commits only.

    TiDB's `AS OF TIMESTAMP` rounds the same way.
    """
    return TimeStamp(physical_ms << LOGICAL_BITS)


def physical_ms(ts: TimeStamp) -> int:
    """Return the milliseconds since 1970 UTC at which PD allocated `ts`."""
    return ts >> LOGICAL_BITS
