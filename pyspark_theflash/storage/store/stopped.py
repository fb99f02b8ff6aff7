"""Regions of TiKV that a learner cannot follow any further, with the reasons.

A record is published together with the state of its region, which stays at that index, and deleted
when a snapshot replaces the region, or when the region is removed.
"""

import json
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import load, shaped, text, uint64

STOPPED_KIND: Final = "stopped-region"


@dataclass(frozen=True, slots=True)
class StoppedRegion:
    """A region that stays at an index of its raft log."""

    region_id: int
    applied_index: int
    reason: str

    @property
    def key(self) -> str:
        """The key of its record."""
        return f"{self.region_id:020d}"

    def to_record(self) -> Record:
        body = json.dumps([self.applied_index, self.reason]).encode()
        return Record(STOPPED_KIND, self.key, body)


def stopped_regions(view: View) -> list[StoppedRegion]:
    """Return the stopped regions by id; `view` has `STOPPED_KIND`. Raises `CodecError`."""
    regions = []
    for key, body in sorted(view.of_kind(STOPPED_KIND).items()):
        with shaped(f"{STOPPED_KIND} record"):
            applied_index, reason = load(body)
            regions.append(StoppedRegion(int(key), uint64(applied_index), text(reason)))
    return regions
