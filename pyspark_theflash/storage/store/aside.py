"""Physical tables that are set aside: their rows are unknown from some commit on.

Sometimes the effect of a transaction on a table cannot be determined from its binlog, nor by other
means. The writer then continues without it: it publishes a record for each physical table that the
transaction may have written to, together with its other changes. Reads of such a table at or above
that commit raise an error. Earlier reads, and reads of other tables, are exact.

A record belongs to a physical table, so EXCHANGE PARTITION moves it to another table, and TRUNCATE,
which creates a new physical table, ends it. REORGANIZE PARTITION copies it along with the rows.
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
    """A physical table set aside from `ts` on, when it belonged to `table`."""

    physical_id: PhysicalTableID
    ts: TimeStamp
    table: str
    reason: str

    def to_record(self) -> Record:
        body = json.dumps([self.ts, self.table, self.reason]).encode()
        return Record(ASIDE_KIND, f"{self.physical_id:020d}", body)


def asides_of(view: View) -> dict[PhysicalTableID, Aside]:
    """Return the physical tables set aside; `view` has `ASIDE_KIND`. Raises `CodecError`."""
    asides = {}
    for key, body in view.of_kind(ASIDE_KIND).items():
        with shaped(f"{ASIDE_KIND} record"):
            ts, table, reason = load(body)
            id = PhysicalTableID(int(key))
            asides[id] = Aside(id, TimeStamp(uint64(ts)), text(table), text(reason))
    return asides


def set_aside(
    asides: Asides, table: str, physical_ids: Sequence[PhysicalTableID], ts: TimeStamp
) -> TableSetAsideError | None:
    """Return the error of reading `table` at `ts`; None if it is not set aside."""
    matches = [aside for i in physical_ids if (aside := asides.get(i)) and aside.ts <= ts]
    if not matches:
        return None
    first = min(matches, key=lambda aside: aside.ts)
    return TableSetAsideError(table, first.ts, first.reason)


def asides_texts(view: View) -> tuple[str, ...]:
    """Return the errors of reading the tables that are set aside. Raises `CodecError`."""
    asides = sorted({(each.table, each.ts, each.reason) for each in asides_of(view).values()})
    return tuple(str(TableSetAsideError(*each)) for each in asides)


def check_asides(view: View, history: SchemaHistory | None) -> Iterator[CorruptionError]:
    """Yield an error for each record of an unknown physical table. Raises `CodecError`."""
    events = () if history is None else history.events
    physical_ids = {physical_id for event in events for physical_id in event.stored_ids}
    for aside in asides_of(view).values():
        if aside.physical_id not in physical_ids:
            reason = f"{aside.table} is set aside, but is not a table of the stream"
            yield CorruptionError(f"record {ASIDE_KIND} {aside.physical_id}", 0, reason)
