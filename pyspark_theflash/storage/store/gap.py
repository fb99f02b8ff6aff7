"""Gaps: ranges of handles whose rows an operator has purged.

The rows are removed at every timestamp, and rows written there later are not all that TiDB has. So
a scan that overlaps a gap raises an error instead of returning incomplete rows.
"""

import json
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.types import PhysicalTableID, RegionID
from pyspark_theflash.storage.store.command import handle_of, handle_text
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import load, shaped, text

GAP_KIND: Final = "gap"
_DIGITS: Final = 20


@dataclass(frozen=True, slots=True)
class Gap:
    """A purged range of a physical table: the handles from `start` to before `end`.

    None is no bound. `region_id` is the region that had this range when it was purged.
    """

    physical_id: PhysicalTableID
    region_id: RegionID
    start: int | bytes | None
    end: int | bytes | None

    def contains(self, handle: int | bytes) -> bool:
        """Return whether the gap contains a handle."""
        is_above = self.start is None or handle >= self.start  # type: ignore[operator]
        return is_above and (self.end is None or handle < self.end)  # type: ignore[operator]

    def to_record(self) -> Record:
        bounds = [None if b is None else handle_text(b) for b in (self.start, self.end)]
        key = f"{_prefix(self.physical_id)}{self.region_id:0{_DIGITS}d}"
        return Record(GAP_KIND, key, json.dumps(bounds).encode())


def all_gaps(view: View) -> list[Gap]:
    """Return the gaps of all physical tables; `view` has `GAP_KIND`. Raises `CodecError`."""
    return [_gap(key, body) for key, body in view.of_kind(GAP_KIND).items()]


def gaps_of(view: View, physical_id: PhysicalTableID) -> list[Gap]:
    """Return the gaps of a physical table; `view` has `GAP_KIND`. Raises `CodecError`."""
    prefix, records = _prefix(physical_id), view.of_kind(GAP_KIND).items()
    return [_gap(key, body) for key, body in records if key.startswith(prefix)]


def _gap(key: str, body: bytes) -> Gap:
    with shaped(f"{GAP_KIND} record"):
        physical_id, region_id = map(int, key.split("-"))
        start, end = (None if b is None else handle_of(text(b)) for b in load(body))
        return Gap(PhysicalTableID(physical_id), RegionID(region_id), start, end)


def _prefix(physical_id: PhysicalTableID) -> str:
    return f"{physical_id:0{_DIGITS}d}-"
