"""Physical tables that are set aside: what they hold from a commit on is not known.

A binlog may leave open what a transaction did to a table, and whoever could tell may not know any
more. The writer then goes on without: it publishes a record for each physical table that the
transaction may have written to, together with what else was committed. A read of such a table at or
above that commit raises; one before it is as exact as ever, and so is one of any other table.

A record is of a physical table, so EXCHANGE PARTITION takes it to another table, and TRUNCATE,
which gives out a new one, leaves it behind. REORGANIZE PARTITION passes it on, as it does the rows.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.errors import CorruptionError, TableSetAsideError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import load, shaped, text, uint64
from pyspark_theflash.tidb.schema.history import SchemaHistory

ASIDE_KIND: Final = "aside"
Asides = Mapping[PhysicalTableID, "Aside"]


@dataclass(frozen=True, slots=True)
class Aside:
    """A physical table, set aside from `ts` on; it was one of `table` then."""

    physical_id: PhysicalTableID
    ts: TimeStamp
    table: str
    reason: str

    def to_record(self) -> Record:
        body = json.dumps([self.ts, self.table, self.reason]).encode()
        return Record(ASIDE_KIND, f"{self.physical_id:020d}", body)


def asides_of(view: View) -> dict[PhysicalTableID, Aside]:
    """All that are set aside; `view` has `ASIDE_KIND`. Raises `CodecError`."""
    found = {}
    for key, body in view.of_kind(ASIDE_KIND).items():
        with shaped(f"{ASIDE_KIND} record"):
            ts, table, reason = load(body)
            id = PhysicalTableID(int(key))
            found[id] = Aside(id, TimeStamp(uint64(ts)), text(table), text(reason))
    return found


def set_aside(
    asides: Asides, table: str, physical_ids: Sequence[PhysicalTableID], ts: TimeStamp
) -> TableSetAsideError | None:
    """Return what a read of `table` at `ts` raises; None where all of its rows are known."""
    found = [aside for i in physical_ids if (aside := asides.get(i)) and aside.ts <= ts]
    if not found:
        return None
    first = min(found, key=lambda aside: aside.ts)
    return TableSetAsideError(table, first.ts, first.reason)


def check_asides(view: View, history: SchemaHistory | None) -> Iterator[CorruptionError]:
    """Every record of a physical table that no table has had. Raises `CodecError`."""
    events = () if history is None else history.events
    known = {physical_id for event in events for physical_id in event.stored_ids}
    for aside in asides_of(view).values():
        if aside.physical_id not in known:
            reason = f"{aside.table} is set aside, and is none of the stream's tables"
            yield CorruptionError(f"record {ASIDE_KIND} {aside.physical_id}", 0, reason)
