"""Physical tables whose rows garbage collection has removed, for their table was dropped.

TiDB can still bring such a table back (RECOVER, FLASHBACK), under the same id and without a binlog
of its rows. Who reads it then must be told that they are not here any more.
"""

from typing import Final

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import load, shaped, uint64

PURGED_KIND: Final = "purged"


def purged_record(physical_id: PhysicalTableID, safe_point: TimeStamp) -> Record:
    """Says that the rows went with the collection up to `safe_point`."""
    return Record(PURGED_KIND, f"{physical_id:020d}", str(safe_point).encode())


def purged_at(view: View, physical_id: PhysicalTableID) -> TimeStamp | None:
    """The safe point with which a physical table went, or None. Raises `CodecError`."""
    body = view.of_kind(PURGED_KIND).get(f"{physical_id:020d}")
    with shaped(f"{PURGED_KIND} record"):
        return None if body is None else TimeStamp(uint64(load(body)))
