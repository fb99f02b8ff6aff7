"""Physical tables that a change feed's writer loaded after the store had begun.

The rows that such a physical table had at one timestamp were read from TiKV, and its changes have
been followed from there. What the store has from before, if anything, is a part of its rows: it
is not complete in a *gap* before each of its loads.

    complete ───────── set aside at 300 ╌╌╌╌ gap ╌╌╌╌ loaded at 500 ─────────── complete

A record has the physical table's gaps, `[[300, 500]]`. A gap is empty, `[500, 500]`, if the table
had no rows before. Reads in a gap raise `SnapshotTooOldError`.
"""

import json
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import load, shaped, uint64

ENTERED_KIND: Final = "entered"


@dataclass(frozen=True, slots=True)
class Entered:
    """The gaps of a physical table, each from a timestamp to before that of a load, in order."""

    gaps: tuple[tuple[TimeStamp, TimeStamp], ...] = ()

    def loaded_ts(self, ts: TimeStamp) -> TimeStamp:
        """Return the newest load at or below a timestamp; 0 if there is none."""
        return max((end for _, end in self.gaps if end <= ts), default=TimeStamp(0))

    def readable_from(self, ts: TimeStamp) -> TimeStamp | None:
        """Return the end of the gap that a timestamp is in; None if it is in none."""
        return next((end for start, end in self.gaps if start <= ts < end), None)

    def plus(self, start: TimeStamp, end: TimeStamp) -> "Entered":
        """Return this with another gap, after all others."""
        return Entered((*self.gaps, (start, end)))

    def to_record(self, physical_id: PhysicalTableID) -> Record:
        return Record(ENTERED_KIND, f"{physical_id:020d}", json.dumps(self.gaps).encode())


def entered_of(view: View) -> dict[PhysicalTableID, Entered]:
    """Return the physical tables with gaps; `view` has `ENTERED_KIND`. Raises `CodecError`."""
    entered = {}
    for key, body in view.of_kind(ENTERED_KIND).items():
        with shaped(f"{ENTERED_KIND} record"):
            gaps = tuple((TimeStamp(uint64(a)), TimeStamp(uint64(b))) for a, b in load(body))
            entered[PhysicalTableID(int(key))] = Entered(gaps)
    return entered
