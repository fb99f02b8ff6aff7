"""Physical tables of dropped tables whose rows garbage collection has removed.

TiDB can restore such a table (RECOVER, FLASHBACK) with the same id and without a binlog of its
rows. Reading it then raises an error, until a writer of TiKV's change feed has loaded it again.
"""

from collections.abc import Iterable
from typing import Final

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import load, shaped, uint64

PURGED_KIND: Final = "purged"


def purged_record(physical_id: PhysicalTableID, safe_point: TimeStamp) -> Record:
    """Return the record of a physical table removed by the garbage collection at `safe_point`."""
    return Record(PURGED_KIND, f"{physical_id:020d}", str(safe_point).encode())


def purged_at(view: View, physical_id: PhysicalTableID) -> TimeStamp | None:
    """Return the safe point at which a physical table was removed, or None. Raises `CodecError`."""
    body = view.of_kind(PURGED_KIND).get(f"{physical_id:020d}")
    with shaped(f"{PURGED_KIND} record"):
        return None if body is None else TimeStamp(uint64(load(body)))


def ended_purges(view: View, physical_ids: Iterable[PhysicalTableID]) -> list[tuple[str, str]]:
    """Return the records to delete when the rows of physical tables have been loaded again."""
    keys = (f"{physical_id:020d}" for physical_id in physical_ids)
    return [(PURGED_KIND, key) for key in keys if key in view.of_kind(PURGED_KIND)]
