"""Identifiers and timestamps that every layer shares.

A TiDB timestamp (TSO) is one 64-bit number: `physical milliseconds << 18 | logical`. It is a plain
`int` in Python and `uint64` in Arrow; the split into its two parts lives here and nowhere else.
"""

from dataclasses import dataclass
from typing import Final, NewType

TimeStamp = NewType("TimeStamp", int)
"""A TSO: `(physical_ms << 18) | logical`, 0 <= ts < 2**64."""

SchemaVersion = NewType("SchemaVersion", int)
TableID = NewType("TableID", int)
"""A logical table, as TiDB's TableInfo names it."""
PhysicalTableID = NewType("PhysicalTableID", int)
"""What rows are stored under: a table without partitions, or one TiDB partition."""
ColumnID = NewType("ColumnID", int)
"""A column for life: a rename keeps it, dropping and adding the same name makes a new one."""
RegionID = NewType("RegionID", int)
Generation = NewType("Generation", int)
"""How many publications the store has seen; grows by one with each."""
FencingToken = NewType("FencingToken", int)
"""Grows with every grant of a latch, so that a holder from before can be refused."""


@dataclass(frozen=True, slots=True)
class RegionEpoch:
    """A region of TiKV in time: one of another epoch may be of other keys or peers."""

    conf_ver: int
    """Grows when a peer comes or goes."""
    version: int
    """Grows with a split or a merge."""


LOGICAL_BITS: Final = 18
MAX_TS: Final = TimeStamp(2**64 - 1)
"""Above every commit: the `superseded_ts` of a row that nothing has superseded."""


def from_physical_ms(physical_ms: int) -> TimeStamp:
    """The first timestamp of a millisecond: a read there sees what was committed *before* it.

    TiDB's `AS OF TIMESTAMP` rounds the same way.
    """
    return TimeStamp(physical_ms << LOGICAL_BITS)


def physical_ms(ts: TimeStamp) -> int:
    """Milliseconds since 1970 UTC at which PD handed out `ts`."""
    return ts >> LOGICAL_BITS
